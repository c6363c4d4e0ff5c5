"""Requests that are given up, in every way, leave nothing: L0_request_cancellation and L0_grpc_state_cleanup.

A cancelled request of a sequence ends the sequence: what is pending of it is cancelled too, its slot is free, and it
must be started again. Nobody else notices.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as aio_client

from tests.system.oip.conftest import some_of
from tests.system.oip.doors import GrpcDoor, Pending, Refusal, Stream, begin, counted, inputs_of, numbers
from tests.system.oip.server import Server, running
from tests.system.oip.watch import hold, in_flight, load, until, until_idle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

MODEL = "accumulator-slow"
WORK = 500.0  # milliseconds or so
Fresh = Callable[[], int]


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One run at a time, so that what comes second waits."""
    with running(
        some_of(repository, (MODEL, "identity-slow"), tmp_path_factory.mktemp("some")),
        runners=1,
        max_queue_delay_ms=100_000,
        sequence_idle_timeout_s=1000,
    ) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_left(server: Server) -> Iterator[None]:
    """Every test ends or gives up what it starts, and all of that is let go of, long before it would be idle."""
    yield
    for model in (MODEL, "identity-slow"):
        until_idle(server, model)
        seen = load(server, model)
        assert seen.free_slots == seen.num_slots


@pytest.fixture
def door(server: Server) -> Iterator[GrpcDoor]:
    opened = GrpcDoor(server.grpc)
    yield opened
    opened.close()


@pytest.fixture
def stream(server: Server) -> Iterator[Stream]:
    """Where the runner's work and the sequence beside come from."""
    opened = Stream(server.grpc)
    yield opened
    opened.close()


def arrived(door: GrpcDoor) -> None:
    """Come back when all that was sent on a connection has been read: what is refused at once comes behind it."""
    assert isinstance(begin(door.client, MODEL, numbers(1, 0)).outcome(), Refusal)


def step_of(door: GrpcDoor, sequence: int, value: int, **options: Any) -> Pending:
    """Send a step and do not wait."""
    return begin(door.client, MODEL, numbers(value, 0), sequence_id=sequence, **options)


def is_gone(door: GrpcDoor, sequence: int) -> None:
    """Nothing of a sequence is left but its name, which is free."""
    refusal = step_of(door, sequence, 1).outcome()
    assert isinstance(refusal, Refusal)
    assert "must specify the START flag" in refusal.message
    assert counted(step_of(door, sequence, 3, sequence_start=True, sequence_end=True).receive()) == (3, 1)


def test_a_cancelled_step_that_waits_ends_its_sequence(
    server: Server, door: GrpcDoor, stream: Stream, fresh: Fresh
) -> None:
    sequence, other = fresh(), fresh()
    assert counted(step_of(door, sequence, 5, sequence_start=True).receive()) == (5, 1)
    assert counted(step_of(door, other, 50, sequence_start=True).receive()) == (50, 1)
    hold(server, stream, fresh(), WORK)
    waiting = step_of(door, sequence, 6)
    beside = step_of(door, other, 60, sequence_end=True)
    arrived(door)
    waiting.cancel()
    refused = waiting.outcome()
    assert isinstance(refused, Refusal) and refused.status == "StatusCode.CANCELLED"
    assert counted(beside.receive()) == (110, 2)
    assert stream.receive().id == "held"
    is_gone(door, sequence)


def test_a_cancelled_step_takes_along_what_is_behind_it(
    server: Server, door: GrpcDoor, stream: Stream, fresh: Fresh
) -> None:
    sequence = fresh()
    assert counted(step_of(door, sequence, 5, sequence_start=True).receive()) == (5, 1)
    hold(server, stream, fresh(), WORK)
    first = step_of(door, sequence, 6)
    arrived(door)
    stream.send(MODEL, numbers(7, 0), request_id="second", sequence_id=sequence)
    stream.send(MODEL, numbers(8, 0), request_id="third", sequence_id=sequence, sequence_end=True)
    stream.send(MODEL, numbers(8, 0), request_id="refused at once")  # so that the others are known to have been read
    assert isinstance(stream.outcome(), Refusal)
    first.cancel()
    outcomes = [stream.outcome() for _ in range(3)]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert len(refusals) == 2, outcomes
    is_gone(door, sequence)


def test_a_cancelled_step_that_runs_ends_its_sequence(server: Server, door: GrpcDoor, fresh: Fresh) -> None:
    sequence = fresh()
    running_step = begin(door.client, MODEL, numbers(1, WORK), sequence_id=sequence, sequence_start=True)
    until(lambda: load(server, MODEL).running == 1, "the step at work")
    running_step.cancel()
    assert isinstance(running_step.outcome(), Refusal)
    until_idle(server, MODEL)
    is_gone(door, sequence)


def test_an_answer_that_came_cannot_be_cancelled(server: Server, door: GrpcDoor, fresh: Fresh) -> None:
    sequence = fresh()
    first = step_of(door, sequence, 5, sequence_start=True)
    assert counted(first.receive()) == (5, 1)
    first.cancel()
    assert counted(step_of(door, sequence, 6, sequence_end=True).receive()) == (11, 2)


def test_states_never_mix_after_a_stream_is_cancelled(server: Server, fresh: Fresh) -> None:
    # The reference server once gave a new sequence the slot of a cancelled one too early, or with its state in it.
    cancelled = Stream(server.grpc)
    hold(server, cancelled, fresh(), WORK)
    first = fresh()
    for i in range(10):
        cancelled.send(MODEL, numbers(1000, 0), sequence_id=first, sequence_start=i == 0)
    cancelled.cancel()
    stream, sequences = Stream(server.grpc), [fresh(), fresh()]
    for i in range(4):
        for sequence in sequences:
            stream.send(
                MODEL,
                numbers(sequence, 0),
                request_id=f"{sequence}/{i}",
                sequence_id=sequence,
                sequence_start=i == 0,
                sequence_end=i == 3,
            )
    told = {answer.id: counted(answer) for answer in [stream.receive() for _ in range(8)]}
    assert told == {f"{s}/{i}": (s * (i + 1), i + 1) for s in sequences for i in range(4)}
    stream.close()


def test_a_cancelled_stream_ends_what_is_pending_and_no_more(server: Server, door: GrpcDoor, fresh: Fresh) -> None:
    cancelled, pending, settled = Stream(server.grpc), fresh(), fresh()
    for sequence in (pending, settled):
        cancelled.send(MODEL, numbers(5, 0), sequence_id=sequence, sequence_start=True)
        assert counted(cancelled.receive()) == (5, 1)
    hold(server, cancelled, fresh(), WORK)
    cancelled.send(MODEL, numbers(5, 0), sequence_id=pending)
    cancelled.send(MODEL, numbers(5, 0))
    assert isinstance(cancelled.outcome(), Refusal)  # what was sent before has been read
    cancelled.cancel()
    until(lambda: load(server, MODEL).sessions == 1, "only the sequence without pending requests left")
    assert counted(step_of(door, settled, 6, sequence_end=True).receive()) == (11, 2)
    is_gone(door, pending)


def test_a_call_whose_time_is_up_ends_its_sequence(
    server: Server, door: GrpcDoor, stream: Stream, fresh: Fresh
) -> None:
    sequence = fresh()
    assert counted(step_of(door, sequence, 5, sequence_start=True).receive()) == (5, 1)
    hold(server, stream, fresh(), WORK)
    late = step_of(door, sequence, 6, client_timeout=0.1)
    refused = late.outcome()
    assert isinstance(refused, Refusal) and refused.status == "StatusCode.DEADLINE_EXCEEDED"
    assert stream.receive().id == "held"
    is_gone(door, sequence)


async def test_a_cancelled_task_of_the_asyncio_client_ends_its_sequence(server: Server, fresh: Fresh) -> None:
    sequence = fresh()
    async with aio_client.InferenceServerClient(server.grpc) as client:
        task = asyncio.create_task(
            client.infer(MODEL, inputs_of(grpc_client, numbers(1, WORK)), sequence_id=sequence, sequence_start=True)
        )
        await asyncio.to_thread(until, lambda: load(server, MODEL).running == 1, "the step at work")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until_idle, server, MODEL)


async def test_a_cancelled_stream_of_the_asyncio_client_ends_its_sequences(server: Server, fresh: Fresh) -> None:
    over = asyncio.Event()

    async def requests() -> Any:
        inputs = inputs_of(grpc_client, numbers(1, WORK))
        yield {"model_name": MODEL, "inputs": inputs, "sequence_id": fresh(), "sequence_start": True}
        await over.wait()

    async with aio_client.InferenceServerClient(server.grpc) as client:
        answers = client.stream_infer(requests())
        await asyncio.to_thread(until, lambda: load(server, MODEL).running == 1, "the step at work")
        assert answers.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.RpcError)):
            async for _ in answers:
                pass
        over.set()
        await asyncio.to_thread(until_idle, server, MODEL)


def test_a_hung_up_http_request_ends_its_sequence(server: Server, door: GrpcDoor, fresh: Fresh) -> None:
    sequence = fresh()
    body = (
        f'{{"parameters": {{"sequence_id": {sequence}, "sequence_start": true, "sequence_end": false}}, "inputs": ['
        '{"name": "INPUT", "shape": [1, 1], "datatype": "INT64", "data": [1]},'
        f'{{"name": "WORK", "shape": [1, 1], "datatype": "FP32", "data": [{WORK}]}}]}}'
    ).encode()
    host, port = server.http.rsplit(":", 1)
    with contextlib.closing(socket.create_connection((host, int(port)))) as connection:
        head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        until(lambda: load(server, MODEL).running == 1, "the step at work")
    until_idle(server, MODEL)
    is_gone(door, sequence)


def test_cancelled_requests_without_a_sequence_leave_the_others(server: Server, door: GrpcDoor) -> None:
    def ask(value: int, work: float) -> Pending:
        arrays = {"IN_INT64": np.array([[value]]), "WORK": np.array([[work]], np.float32)}
        return begin(door.client, "identity-slow", arrays)

    first = ask(0, WORK)
    until(lambda: in_flight(server, "identity-slow") >= 1, "the run at work")
    calls = [ask(i, 0) for i in range(1, 9)]
    for call in calls[::2]:
        call.cancel()
    for i, call in enumerate(calls, 1):
        outcome = call.outcome()
        if isinstance(outcome, Refusal):
            assert i % 2 == 1 and outcome.status == "StatusCode.CANCELLED"
        else:
            assert i % 2 == 0 and outcome.outputs["OUT_INT64"].tolist() == [[i]]
    assert first.receive().outputs["OUT_INT64"].tolist() == [[0]]


def test_errors_leave_nothing(server: Server, door: GrpcDoor, stream: Stream, fresh: Fresh) -> None:
    for _ in range(50):
        assert isinstance(step_of(door, fresh(), 1).outcome(), Refusal)
        stream.send(MODEL, numbers(1, 0), sequence_id=fresh())
        assert isinstance(stream.outcome(), Refusal)
        stream.send("nosuch", numbers(1, 0), sequence_id=fresh(), sequence_start=True)
        assert isinstance(stream.outcome(), Refusal)
