"""What a stream promises: errors that leave it open, order, no waiting for strangers, a full answer on half-close."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as aio_client
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.system.oip.conftest import some_of
from tests.system.oip.doors import ANSWER_TIMEOUT_S, Answer, Refusal, Stream, answer_of, counted, inputs_of, numbers
from tests.system.oip.server import Server, running
from tests.system.oip.watch import hold, until_idle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

Fresh = Callable[[], int]


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One run at a time."""
    with running(
        some_of(
            repository,
            ("accumulator", "accumulator-slow", "accumulator-one", "identity"),
            tmp_path_factory.mktemp("some"),
        ),
        runners=1,
        max_queue_delay_ms=100_000,
    ) as served:
        yield served
        until_idle(served, "accumulator-slow")


@pytest.fixture
def stream(server: Server) -> Iterator[Stream]:
    opened = Stream(server.grpc)
    yield opened
    opened.close()


def test_an_error_leaves_the_stream_open(stream: Stream, fresh: Fresh) -> None:
    sequence = fresh()
    stream.send("accumulator", numbers(1), request_id="a", sequence_id=sequence, sequence_start=True)
    stream.send("accumulator", numbers(1), request_id="b", sequence_id=fresh())
    stream.send("nosuch", numbers(1), request_id="c")
    stream.send("accumulator", {"OTHER": np.zeros((1, 1))}, request_id="d", sequence_id=sequence)
    stream.send("accumulator", numbers(2), request_id="e", sequence_id=sequence, sequence_end=True)
    outcomes = [stream.outcome() for _ in range(5)]
    refused = [outcome.message for outcome in outcomes if isinstance(outcome, Refusal)]
    told = {outcome.id: counted(outcome) for outcome in outcomes if isinstance(outcome, Answer)}
    assert told == {"a": (1, 1), "e": (3, 2)}
    assert len(refused) == 3
    assert any("must specify the START flag" in text for text in refused)
    assert any(text.startswith("Request for unknown model: 'nosuch' is not found") for text in refused)
    assert any("OTHER" in text for text in refused)


def raw_request(sequence: int, value: int, **parameters: bool) -> Any:
    """A request as tritonclient's own messages have it."""
    request = service_pb2.ModelInferRequest(model_name="accumulator", id=str(value))
    request.parameters["sequence_id"].int64_param = sequence
    for name, flag in parameters.items():
        request.parameters[name].bool_param = flag
    tensor = request.inputs.add(name="INPUT", datatype="INT64", shape=[1, 1])
    tensor.contents.int64_contents.append(value)
    return request


def raw_stream(server: Server, requests: list[Any], metadata: tuple[tuple[str, str], ...] = ()) -> list[Any]:
    """All responses to some requests, by a stub without tritonclient's classes."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return list(stub.ModelStreamInfer(iter(requests), metadata=metadata, timeout=ANSWER_TIMEOUT_S))


def test_an_error_names_its_request(server: Server, fresh: Fresh) -> None:
    (response,) = raw_stream(server, [raw_request(fresh(), 7)])
    assert "must specify the START flag" in response.error_message
    assert response.infer_response.id == "7"


def test_with_triton_grpc_error_the_first_error_ends_the_stream(server: Server, fresh: Fresh) -> None:
    sequence = fresh()
    requests = [
        raw_request(sequence, 1, sequence_start=True, sequence_end=True),
        raw_request(sequence, 2),
        raw_request(sequence, 3, sequence_start=True, sequence_end=True),
    ]
    with pytest.raises(grpc.RpcError) as ended:
        raw_stream(server, requests, (("triton_grpc_error", "true"),))
    assert ended.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "must specify the START flag" in str(ended.value.details())
    assert len(raw_stream(server, requests, (("triton_grpc_error", "false"),))) == 3
    until_idle(server, "accumulator")


def test_every_answer_says_that_it_is_final(server: Server, fresh: Fresh) -> None:
    sequence = fresh()
    responses = raw_stream(
        server,
        [
            raw_request(sequence, 5, sequence_start=True),
            raw_request(sequence, 6, sequence_end=True, triton_enable_empty_final_response=True),
        ],
    )
    assert [response.error_message for response in responses] == ["", ""]
    for response in responses:
        assert response.infer_response.parameters["triton_final_response"].bool_param
    assert [response.infer_response.id for response in responses] == ["5", "6"]


def test_a_half_closed_stream_is_answered_to_the_end(server: Server, stream: Stream, fresh: Fresh) -> None:
    hold(server, stream, fresh(), 300)
    sequence = fresh()
    for i in range(20):
        stream.send(
            "accumulator-slow",
            numbers(1, 0),
            request_id=str(i),
            sequence_id=sequence,
            sequence_start=i == 0,
            sequence_end=i == 19,
        )
    stream.half_close()  # waits for the end of the call
    answers = [stream.receive(1.0) for _ in range(21)]
    told = [(answer.id, counted(answer)) for answer in answers if answer.id != "held"]
    assert told == [(str(i), (i + 1, i + 1)) for i in range(20)]


def test_nobody_waits_for_another_sequence(server: Server, stream: Stream, fresh: Fresh) -> None:
    hold(server, stream, fresh(), 500)
    for i in range(10):  # of another model, which has nothing to do
        stream.send(
            "accumulator", numbers(i), request_id=str(i), sequence_id=fresh(), sequence_start=True, sequence_end=True
        )
    ids = [stream.receive().id for _ in range(11)]
    assert sorted(ids[:10]) == [str(i) for i in range(10)]
    assert ids[10] == "held"


def test_a_stream_may_mix_models_sequences_and_what_has_no_state(stream: Stream, fresh: Fresh) -> None:
    sequence = fresh()
    stream.send("accumulator", numbers(4), request_id="a", sequence_id=sequence, sequence_start=True, sequence_end=True)
    stream.send(
        "accumulator-one", numbers(5), request_id="b", sequence_id=sequence, sequence_start=True, sequence_end=True
    )
    stream.send("identity", {"IN_FP32": np.ones((2, 3), np.float32)}, request_id="c")
    answers = {answer.id: answer for answer in [stream.receive() for _ in range(3)]}
    assert counted(answers["a"]) == (4, 1)
    assert counted(answers["b"]) == (5, 1)
    assert answers["c"].outputs["OUT_FP32"].tolist() == [[1.0] * 3] * 2


async def test_the_asyncio_stream_takes_steps_as_they_are_answered(server: Server, fresh: Fresh) -> None:
    sequence = fresh()
    answered: asyncio.Queue[int] = asyncio.Queue()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        value = 1
        for i in range(30):  # each value is the answer before: a loop through the server
            yield {
                "model_name": "accumulator",
                "inputs": inputs_of(grpc_client, numbers(value)),
                "sequence_id": sequence,
                "sequence_start": i == 0,
                "sequence_end": i == 29,
            }
            value = await answered.get()

    async with aio_client.InferenceServerClient(server.grpc) as client, asyncio.timeout(ANSWER_TIMEOUT_S):
        totals = []
        async for result, error in client.stream_infer(requests()):
            assert error is None
            totals.append(counted(answer_of(result))[0])
            answered.put_nowait(totals[-1])
    assert totals == [2**i for i in range(30)]


def test_two_streams_may_share_a_sequence_in_turns(server: Server, fresh: Fresh) -> None:
    sequence, streams = fresh(), [Stream(server.grpc) for _ in range(2)]
    for i in range(6):
        one = streams[i % 2]
        one.send("accumulator", numbers(1), sequence_id=sequence, sequence_start=i == 0, sequence_end=i == 5)
        assert counted(one.receive()) == (i + 1, i + 1)
    for one in streams:
        one.close()
