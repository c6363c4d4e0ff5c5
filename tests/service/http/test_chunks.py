"""Bodies in chunks: what is taken apart, and what costs too much for that."""

import random
from pathlib import Path

import h11
import pytest

from service.http.chunks import FREE_CHUNKS, LEAST_CHUNK_BYTES, Parser
from tests.service.http.wire import answer, ended, post
from tests.service.http.world import SUM, serving

HEAD = b"POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def body_of(parser: Parser) -> bytes:
    """Parse up to the end of a request."""
    body = b""
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA
        body += bytes(event.data) if isinstance(event, h11.Data) else b""
    return body


def test_a_body_is_what_its_chunks_hold_however_it_is_cut() -> None:
    draw = random.Random(1)
    parts = [draw.randbytes(draw.randint(1, 2 * LEAST_CHUNK_BYTES)) for _ in range(FREE_CHUNKS)]
    parts += [draw.randbytes(LEAST_CHUNK_BYTES) for _ in range(FREE_CHUNKS)]
    parser = Parser()
    parser.receive_data(HEAD + chunked(*parts) + END)
    assert body_of(parser) == b"".join(parts) and not parser.refusal


def test_as_many_crumbs_as_are_free_are_taken_and_not_one_more() -> None:
    parser = Parser()
    parser.receive_data(HEAD + chunked(b"x") * FREE_CHUNKS + END)
    assert body_of(parser) == b"x" * FREE_CHUNKS
    paid = (FREE_CHUNKS + 64) // LEAST_CHUNK_BYTES  # by the bytes of those before
    parser = Parser()
    parser.receive_data(HEAD + chunked(b"x") * (FREE_CHUNKS + paid + 1) + END)
    with pytest.raises(h11.RemoteProtocolError):
        body_of(parser)
    got = FREE_CHUNKS + paid + 1
    assert parser.refusal.endswith(f"got {got} chunks with {got} bytes")


def test_each_request_of_a_connection_has_its_own() -> None:
    parser = Parser()
    for _ in range(3):
        parser.receive_data(HEAD + chunked(b"x") * FREE_CHUNKS + END)
        assert len(body_of(parser)) == FREE_CHUNKS
        parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        parser.send(h11.EndOfMessage())
        parser.start_next_cycle()


def test_a_body_that_comes_byte_by_byte_without_chunks_is_slow_and_nothing_else() -> None:
    size = 2 * FREE_CHUNKS
    parser = Parser()
    parser.receive_data(b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    assert isinstance(parser.next_event(), h11.Request)
    for _ in range(size):
        parser.receive_data(b"x")
        assert isinstance(parser.next_event(), h11.Data)
    assert isinstance(parser.next_event(), h11.EndOfMessage)


async def test_who_sends_crumbs_is_told_and_nobody_else_notices(tmp_path: Path) -> None:
    crumbs = chunked(b" ") * (FREE_CHUNKS + LEAST_CHUNK_BYTES + 2) + END
    async with serving(tmp_path) as world:
        reader, writer = await world.knock()
        writer.write(post(crumbs, f"/v2/models/{SUM}/infer", transfer_encoding="chunked"))
        status, told = await answer(reader)
        assert status == 400 and told["error"].startswith("expected at most 4096 chunks, and one more for every 64")
        assert await ended(reader) == b""
        writer.close()
        assert (await world.get("/v2/health/live"))[0] == 200
