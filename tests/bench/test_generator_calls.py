"""The load generator's calls from a file, over gRPC and HTTP/1.1."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.drive import Response, Result, drive, read_responses, write_messages
from protos.carryover.v1 import carryover_pb2 as pb
from tests.bench.servers import Echo, listening, read_post, serving

pytestmark = pytest.mark.slow


async def run_grpc(handler: Echo, method: str, folder: Path, messages: Iterable[bytes], **options: object) -> Result:
    write_messages(folder / "messages", messages)
    options = {"seconds": 0.3, "warmup": 0.1, "templates": folder / "messages", "method": method, **options}
    options |= {"keep": 10**6, "responses": folder / "responses"}
    async with serving(handler) as address:
        return await asyncio.to_thread(drive, "grpc", 60.0, address=address, **options)


@pytest.mark.parametrize(("callers", "connections"), [(1, 1), (6, 1), (5, 3)])
async def test_unary_calls_get_their_own_answers(callers: int, connections: int, tmp_path: Path) -> None:
    messages = [bytes([n]) * n for n in range(17)]
    handler = Echo()
    result = await run_grpc(handler, "/echo/Unary", tmp_path, messages, callers=callers, connections=connections)
    responses = read_responses(tmp_path / "responses")
    assert len(responses) == len(handler.seen) == result["calls"] > 17
    for response in responses:
        assert response.parts == (b"<" + messages[response.message],) and response.code == 0
        assert response.message == response.call % 17
    assert result["most_in_flight"] == callers and result["unanswered"] == result["unsent"] == 0
    assert 0 < result["phases"][0]["answered"] <= len(responses)


async def test_every_caller_walks_its_own_messages_over_and_over(tmp_path: Path) -> None:
    callers, each = 4, 5
    messages = [b"%d-%d" % (caller, turn) for caller in range(callers) for turn in range(each)]
    await run_grpc(Echo(), "/echo/Unary", tmp_path, messages, callers=callers, sequences=1)
    walks: dict[int, list[Response]] = {}
    for response in sorted(read_responses(tmp_path / "responses"), key=lambda one: one.call):
        walks.setdefault(response.caller, []).append(response)
    assert set(walks) == set(range(callers))
    for caller, walk in walks.items():
        assert len(walk) > each, "it has begun again"
        expected = itertools.cycle(b"<%d-%d" % (caller, turn) for turn in range(each))
        assert [response.parts for response in walk] == [(next(expected),) for _ in walk]


async def test_a_stream_of_answers_counts_to_its_last_and_tells_when_its_first_came(tmp_path: Path) -> None:
    result = await run_grpc(Echo(delay_s=0.03), "/echo/Stream", tmp_path, [b"ab", b"c" * 200_000], callers=2)
    for response in read_responses(tmp_path / "responses"):
        assert response.parts == (b"first", b"", (b"ab", b"c" * 200_000)[response.message] * 2)
    phase = result["phases"][0]
    assert phase["latency_ms"]["p50"] - 20 > phase["first_ms"]["p50"] > 0
    assert phase["first_ms"]["count"] == phase["latency_ms"]["count"] == phase["answered"]


async def test_statuses_are_counted_and_those_of_a_full_server_apart(tmp_path: Path) -> None:
    messages = [bytes([code]) for code in (8, 3, 14)]
    result = await run_grpc(Echo(), "/echo/Fail", tmp_path, messages, callers=3, rate=300, warmup=0, seconds=1)
    phase = result["phases"][0]
    assert phase["answered"] == 0 and phase["offered"] == phase["refused"] + phase["failed"] > 200
    assert set(result["failures"]) == {"3", "14"} and sum(result["failures"].values()) == phase["failed"]
    assert abs(phase["failed"] - 2 * phase["refused"]) <= 2
    assert result["first_failure"].startswith("told to fail: ")
    assert {response.code for response in read_responses(tmp_path / "responses")} == {3, 8, 14}


async def test_a_method_that_is_not_there_is_a_failure_with_its_status(tmp_path: Path) -> None:
    result = await run_grpc(Echo(), "/echo/Nothing", tmp_path, [b""], rate=100)
    assert set(result["failures"]) == {"12"}


class Tags(grpc.GenericRpcHandler):
    """A TagStream whose tags are the words turned round, whose answers come last first, and which refuses some."""

    def __init__(self) -> None:
        self.commands: list[int] = []
        self.of_streams: Counter[int] = Counter()  # commands
        self.num_streams = 0

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[pb.TagStreamRequest, pb.TagStreamResponse] | None":
        assert details.method == "/carryover.v1.Carryover/TagStream"
        return grpc.stream_stream_rpc_method_handler(
            self._tags, pb.TagStreamRequest.FromString, pb.TagStreamResponse.SerializeToString
        )

    async def _tags(
        self, requests: AsyncIterator[pb.TagStreamRequest], context: Any
    ) -> AsyncIterator[pb.TagStreamResponse]:
        self.num_streams += 1
        number = self.num_streams
        async for request in requests:
            self.commands.append(len(request.commands))
            self.of_streams[number] += len(request.commands)
            answer = pb.TagStreamResponse()
            for command in reversed(request.commands):
                event = answer.events.add(request_id=command.request_id)
                (sentence,) = command.request.sequences
                if sentence.tokens[0] in ("8", "3"):
                    event.error.code, event.error.message = int(sentence.tokens[0]), "no"
                    continue
                event.response.sequences.add(tags=[word[::-1] for word in sentence.tokens])
            yield answer


def tag_requests(sentences: list[list[str]]) -> list[bytes]:
    sequences = [pb.TokenSequence(tokens=sentence) for sentence in sentences]
    return [pb.TagRequest(sequences=[sequence]).SerializeToString() for sequence in sequences]


async def test_requests_over_tag_streams_get_their_own_answers(tmp_path: Path) -> None:
    sentences = [[f"w{n}", f"x{n * n}"] for n in range(23)]
    write_messages(tmp_path / "requests", tag_requests(sentences))
    options = {"templates": tmp_path / "requests", "responses": tmp_path / "responses", "keep": 10**6, "callers": 12}
    shape = {"streams": 3, "connections": 2, "seconds": 0.3, "warmup": 0.1}
    server = Tags()
    async with serving(server) as address:
        result = await asyncio.to_thread(drive, "tags", 60.0, address=address, **options, **shape)
    responses = read_responses(tmp_path / "responses")
    assert len(responses) == result["calls"] == sum(server.commands) > 23 and result["failures"] == {}
    for response in responses:
        (tagged,) = pb.TagResponse.FromString(response.parts[0]).sequences
        assert list(tagged.tags) == [word[::-1] for word in sentences[response.message]]
    assert max(server.of_streams.values()) - min(server.of_streams.values()) <= 1 and len(server.of_streams) == 3
    assert server.num_streams == 3 and result["most_in_flight"] == 12
    assert max(server.commands) > 1, "what is ready together shares a message"


async def test_failures_over_tag_streams_are_told_apart(tmp_path: Path) -> None:
    write_messages(tmp_path / "requests", tag_requests([["8"], ["3"], ["w"]]))
    options: dict[str, object] = {"templates": tmp_path / "requests", "callers": 3, "rate": 300, "warmup": 0}
    async with serving(Tags()) as address:
        result = await asyncio.to_thread(drive, "tags", 60.0, address=address, seconds=1, streams=2, **options)
    phase = result["phases"][0]
    assert phase["offered"] > 200 and result["failures"] == {"3": phase["failed"]} and result["first_failure"] == "no"
    assert abs(phase["refused"] - phase["failed"]) <= 1 and result["unanswered"] == 0


@pytest.mark.parametrize("coding", ["length", "chunks"])
async def test_http_posts_get_their_own_answers(coding: str, tmp_path: Path) -> None:
    callers, each = 3, 4
    bodies = [json.dumps([caller, turn]).encode() for caller in range(callers) for turn in range(each)]
    write_messages(tmp_path / "bodies", bodies)
    heads: set[str] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_post(reader)
            heads.add(head)
            if coding == "length":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n<" % (len(body) + 1))
                await writer.drain()
                writer.write(body)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n<\r\n")
                writer.write(b"%X;x=y\r\n%s\r\n0\r\nTrailer: t\r\n\r\n" % (len(body), body))

    options = {"templates": tmp_path / "bodies", "responses": tmp_path / "responses", "sequences": 1, "keep": 10**6}
    shape = {
        "callers": callers,
        "path": "/infer/x",
        "seconds": 0.3,
        "warmup": 0.1,
        "metadata": ["X-One: 1", "X-Two: 2"],
    }
    async with listening(answer) as address:
        result = await asyncio.to_thread(drive, "http", 60.0, address=address, **options, **shape)
    responses = read_responses(tmp_path / "responses")
    assert len(responses) == result["calls"] > 12 and result["failures"] == {}
    for response in responses:
        assert response.parts == (b"<" + bodies[response.message],) and response.code == 200
        assert response.message // each == response.caller
    assert len({len(head) for head in heads}) == 1
    assert heads.pop().startswith("POST /infer/x HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_http_refusals_and_failures_are_told_apart(tmp_path: Path) -> None:
    write_messages(tmp_path / "bodies", [b"429", b"503", b"500", b"200"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, body = await read_post(reader)
            writer.write(b"HTTP/1.1 %s Because\r\nContent-Length: 5\r\n\r\nhello" % body)

    options: dict[str, object] = {"templates": tmp_path / "bodies", "callers": 5, "path": "/", "rate": 400, "warmup": 0}
    async with listening(answer) as address:
        result = await asyncio.to_thread(drive, "http", 60.0, address=address, seconds=1, **options)
    phase = result["phases"][0]
    answered = phase["latency_ms"]["count"]  # whenever
    assert phase["offered"] == answered + phase["refused"] + phase["failed"] > 300
    assert abs(phase["refused"] - 2 * answered) <= 3 and abs(phase["failed"] - answered) <= 2
    assert set(result["failures"]) == {"500"} and result["first_failure"] == "HTTP 500: hello"


async def test_http_arrivals_that_find_no_caller_free_wait_and_count_from_their_time(tmp_path: Path) -> None:
    write_messages(tmp_path / "bodies", [b"{}"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_post(reader)
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    options: dict[str, object] = {"templates": tmp_path / "bodies", "callers": 2, "path": "/", "rate": 100, "warmup": 0}
    async with listening(answer) as address:
        result = await asyncio.to_thread(drive, "http", 60.0, address=address, seconds=1, drain=0.3, **options)
    phase = result["phases"][0]
    assert 0 < phase["answered"] <= 40, "two callers of 20 a second"
    assert phase["latency_ms"]["max"] > 400, "the last that was sent had waited long"
    assert result["unsent"] > 20 and phase["offered"] >= result["unsent"] + phase["answered"]
