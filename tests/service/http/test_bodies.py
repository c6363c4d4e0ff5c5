"""Bodies of requests: late, long, cut and too many."""

import asyncio
import json
from pathlib import Path

import pytest

from service.http import body as body_module
from service.http import server as server_module
from tests.service.http.wire import answer, arrived, ended, post, settled
from tests.service.http.world import PATIENCE_S, output, serving, step
from tests.service.tensor_models import INITIAL_TOTAL


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with serving(tmp_path, slow_reader_timeout_s=0.1) as world:
        reader, writer = await world.knock()
        writer.write(post(b"{", content_length="1000"))
        status, told = await answer(reader)
        assert status == 408 and told["error"] == "expected the whole body within 0.1 s, got 1 bytes"
        assert await ended(reader) == b""
        writer.close()


async def test_a_body_may_take_longer_while_it_comes_fast_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "LEAST_BYTES_PER_S", 1)
    async with serving(tmp_path, slow_reader_timeout_s=0.2) as world:
        reader, writer = await world.knock()
        request = post(step([1], start=True))
        writer.write(request[:-10])
        await writer.drain()
        assert await asyncio.wait_for(world.get("/v2/health/live"), PATIENCE_S) == (200, {"live": True})
        await asyncio.sleep(0.4)  # longer than the time that a body without bytes would have
        writer.write(request[-10:])
        assert (await answer(reader))[0] == 200
        writer.close()


async def test_who_uploads_too_much_gets_to_read_why(tmp_path: Path) -> None:
    async with serving(tmp_path, max_message_bytes=1024) as world:
        reader, writer = await world.knock()
        writer.write(post(bytes(3000)))
        status, told = await answer(reader)
        assert (status, told["error"]) == (413, "expected a body of at most 1024 bytes, got 3000 or more")
        assert await ended(reader) == b""
        writer.close()
        reader, writer = await world.knock()
        chunks = b"".join(b"%x\r\n%s\r\n" % (500, bytes(500)) for _ in range(4)) + b"0\r\n\r\n"
        writer.write(post(chunks, transfer_encoding="chunked"))
        assert (await answer(reader))[0] == 413
        writer.close()


@pytest.mark.parametrize(
    ("headers", "begun"),
    [
        ({"content_length": "3000"}, b""),
        ({"content_length": str(10**18)}, bytes(100)),
        ({"transfer_encoding": "chunked"}, b"ffffffff\r\n" + bytes(1025)),
    ],
    ids=["silent", "begun", "chunked"],
)
async def test_who_is_going_to_upload_too_much_is_told_before(
    tmp_path: Path, headers: dict[str, str], begun: bytes
) -> None:
    async with serving(tmp_path, max_message_bytes=1024, slow_reader_timeout_s=10 * PATIENCE_S) as world:
        reader, writer = await world.knock()
        writer.write(post(begun, **headers))
        status, told = await answer(reader)
        assert status == 413 and told["error"].startswith("expected a body of at most 1024 bytes, got ")
        assert await ended(reader) == b""  # silence is not waited out for long
        writer.close()
        await settled(world)


async def test_who_goes_on_uploading_is_listened_to_for_so_many_bytes(tmp_path: Path) -> None:
    async with serving(tmp_path, max_message_bytes=1024) as world:
        reader, writer = await world.knock()
        writer.write(post(b"", content_length="1000000"))
        assert (await answer(reader))[0] == 413
        writer.write(bytes(body_module.MAX_DISCARDED * 1024 - 1))
        await writer.drain()
        other = asyncio.ensure_future(ended(reader))
        assert (await world.get("/v2/health/live"))[0] == 200
        assert not other.done()
        writer.write(bytes(1))
        assert await other == b""
        writer.close()


async def test_who_asks_before_uploading_too_much_need_not_upload(tmp_path: Path) -> None:
    async with serving(tmp_path, max_message_bytes=1024) as world:
        reader, writer = await world.knock()
        writer.write(post(b"", content_length="3000", expect="100-continue"))
        assert (await answer(reader))[0] == 413
        assert await ended(reader) == b""
        writer.close()


async def test_bodies_in_chunks_are_read(tmp_path: Path) -> None:
    data = json.dumps(step([4], start=True)).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:7], data[7:])) + b"0\r\n\r\n"
    async with serving(tmp_path) as world:
        reader, writer = await world.knock()
        writer.write(post(chunks, transfer_encoding="chunked"))
        status, told = await answer(reader)
        assert status == 200 and output(told, "total") == [INITIAL_TOTAL + 4]
        writer.close()


async def test_a_body_that_breaks_off_into_garbage_is_the_end_of_its_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        reader, writer = await world.knock()
        writer.write(post(b'5\r\n{"inp\r\nnonsense\r\n', transfer_encoding="chunked"))
        assert (await answer(reader))[0] == 400
        assert await ended(reader) == b""
        writer.close()
        assert (await world.get("/v2/health/live"))[0] == 200
        await settled(world)


async def test_more_bytes_than_may_be_held_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LEAST_HELD_BYTES", 0)
    async with serving(tmp_path, max_message_bytes=1024) as world:  # and twice as much in all
        world.gate.shut = True
        big = {"pad": "x" * 700}
        waiting = []
        for sequence in (1, 2):
            waiting.append(asyncio.ensure_future(world.infer({**step([1], sequence, start=True), **big})))
            await arrived(world)
        status, told = await world.infer({**step([1], 3, start=True), **big})
        assert status == 503 and told["error"] == "expected at most 2048 bytes of requests at a time, got more"
        world.gate.open()
        assert [(await answered)[0] for answered in waiting] == [200, 200]
        assert (await world.infer({**step([1], 3, start=True), **big}))[0] == 200
