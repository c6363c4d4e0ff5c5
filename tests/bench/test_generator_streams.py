"""The load generator over ModelStreamInfer: many calls on few streams, each with an id of its own."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.drive import Result, drive, read_responses, write_messages
from protos.inference import grpc_service_pb2 as pb
from tests.bench.servers import serving

pytestmark = pytest.mark.slow

CALLERS = 150  # more than twice the ids that there are at first


class Infers(grpc.GenericRpcHandler):
    """Answers with what was asked turned round, of what has come the last one first.

    Args:
        told: The id that it says of every request, in place of its own; empty: its own.
    """

    def __init__(self, told: str = "") -> None:
        self.told = told
        self.num_streams = 0
        self.highest_id = 0
        self.unanswered: set[str] = set()
        self.asked: defaultdict[int, list[bytes]] = defaultdict(list)  # by stream

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[pb.ModelInferRequest, pb.ModelStreamInferResponse] | None":
        assert details.method == "/inference.GRPCInferenceService/ModelStreamInfer"
        return grpc.stream_stream_rpc_method_handler(
            self._infer, pb.ModelInferRequest.FromString, pb.ModelStreamInferResponse.SerializeToString
        )

    async def _infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        number = self.num_streams
        self.num_streams += 1
        held: list[pb.ModelInferRequest] = []
        more = asyncio.Event()

        async def read() -> None:
            async for request in requests:
                assert request.id not in self.unanswered, "an id is not used again before its answer"
                self.unanswered.add(request.id)
                self.highest_id = max(self.highest_id, int(request.id))
                self.asked[number].append(request.raw_input_contents[0])
                held.append(request)
                more.set()

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            reading.add_done_callback(lambda _: more.set())
            while held or not reading.done():
                more.clear()
                while held:
                    yield self._answer(held.pop())
                await more.wait()

    def _answer(self, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        self.unanswered.discard(request.id)
        response = pb.ModelStreamInferResponse()
        response.infer_response.id = self.told or request.id
        word = request.raw_input_contents[0]
        if word == b"full":
            response.error_message = "[request id: 1] Exceeds maximum queue size: 8 requests"
        elif word == b"wrong":
            response.error_message = "expected another word"
        else:
            response.infer_response.raw_output_contents.append(word[::-1])
        return response


async def run(server: Infers, folder: Path, words: list[bytes], **options: object) -> Result:
    """Ask the words over and over."""
    requests = [pb.ModelInferRequest(model_name="m", raw_input_contents=[word]).SerializeToString() for word in words]
    write_messages(folder / "requests", requests)
    given: dict[str, object] = {"templates": folder / "requests", "seconds": 1, "warmup": 0.1, **options}
    async with serving(server) as address:
        return await asyncio.to_thread(drive, "infer-stream", 60.0, address=address, **given)


async def test_requests_over_infer_streams_get_their_own_answers(tmp_path: Path) -> None:
    words = [b"w%d-%d" % (n, n * n) for n in range(23)]
    server = Infers()
    shape = {"callers": CALLERS, "streams": 3, "connections": 2}
    kept = {"responses": tmp_path / "responses", "keep": 10**6}
    result = await run(server, tmp_path, words, **shape, **kept)
    responses = read_responses(tmp_path / "responses")
    assert len(responses) == result["calls"] > CALLERS and result["failures"] == {}
    for response in responses:
        answer = pb.ModelInferResponse.FromString(response.parts[0])
        assert list(answer.raw_output_contents) == [words[response.message][::-1]]
    assert result["calls"] > 2 * CALLERS >= server.highest_id, "ids are used again"
    assert len(server.asked) == 3 and result["most_in_flight"] == CALLERS


async def test_refusals_and_failures_over_infer_streams_are_told_apart(tmp_path: Path) -> None:
    words = [b"full", b"wrong", b"w"]
    result = await run(Infers(), tmp_path, words, callers=30, streams=1, warmup=0)
    (phase,) = result["phases"]
    assert phase["refused"] > 0 and result["failures"].keys() == {"2"} and phase["failed"] > 0
    assert result["first_failure"] == "expected another word" and result["unanswered"] == 0


@pytest.mark.parametrize("told", ["0", "100000", "1"])
async def test_an_answer_to_what_was_not_asked_ends_the_run(told: str, tmp_path: Path) -> None:
    said = f"expected an answer to what was asked, got one to request {told}$"
    with pytest.raises(SystemExit, match=said):
        await run(Infers(told), tmp_path, [b"w"], callers=8, streams=1)
