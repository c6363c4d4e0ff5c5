"""Requests that wait: too long, too many, in front of others, or not at all: L0_model_queue and the like.

The model has one runner, which is kept busy.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.system.oip.conftest import some_of
from tests.system.oip.doors import Answer, GrpcDoor, HttpDoor, Pending, Refusal, Stream, begin, counted, numbers, step
from tests.system.oip.server import Server, running
from tests.system.oip.watch import hold, in_flight, load, statistics, until, until_idle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

MODEL = "accumulator-slow"
MOST_WAITING = 16
IDLE_S = 1.5
SEQUENCE_TIMEOUT = "timeout of the corresponding sequence has been expired"
Fresh = Callable[[], int]


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One run of one row at a time, a short queue and little patience with idle sequences."""
    with running(
        some_of(repository, (MODEL, "identity-slow", "accumulator"), tmp_path_factory.mktemp("some")),
        runners=1,
        max_batch_rows=1,
        max_waiting=MOST_WAITING,
        max_queue_delay_ms=100_000,
        sequence_idle_timeout_s=IDLE_S,
    ) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_left(server: Server) -> Iterator[None]:
    yield
    until_idle(server, MODEL)


@pytest.fixture
def stream(server: Server) -> Iterator[Stream]:
    opened = Stream(server.grpc)
    yield opened
    opened.close()


def test_a_request_that_waits_longer_than_it_may_is_refused(server: Server, stream: Stream, fresh: Fresh) -> None:
    other = Stream(server.grpc)
    hold(server, stream, fresh(), 1000)
    began = time.monotonic()
    other.send(MODEL, numbers(1, 0), sequence_id=fresh(), sequence_start=True, timeout=100_000)
    refusal = other.outcome()
    waited_s = time.monotonic() - began
    assert isinstance(refusal, Refusal) and refusal.message == SEQUENCE_TIMEOUT
    assert waited_s >= 0.1
    assert load(server, MODEL).running >= 1  # it was told at once and not when the runner was free
    assert stream.receive().id == "held"
    other.close()


def test_a_request_that_timed_out_takes_its_sequence_along(server: Server, stream: Stream, fresh: Fresh) -> None:
    sequence = fresh()
    stream.send(MODEL, numbers(5, 0), sequence_id=sequence, sequence_start=True)
    assert counted(stream.receive()) == (5, 1)
    hold(server, stream, fresh(), 600)
    stream.send(MODEL, numbers(6, 0), request_id="timed", sequence_id=sequence, timeout=50_000)
    stream.send(MODEL, numbers(7, 0), request_id="behind", sequence_id=sequence)
    outcomes = [stream.outcome() for _ in range(3)]
    refused = [outcome.message for outcome in outcomes if isinstance(outcome, Refusal)]
    assert len(refused) == 2, outcomes
    assert refused == [SEQUENCE_TIMEOUT] * 2
    stream.send(MODEL, numbers(8, 0), sequence_id=sequence)
    late = stream.outcome()
    assert isinstance(late, Refusal) and "must specify the START flag" in late.message
    stream.send(MODEL, numbers(8, 0), sequence_id=sequence, sequence_start=True, sequence_end=True)
    assert counted(stream.receive()) == (8, 1)


def test_a_request_in_time_is_answered(server: Server, stream: Stream, fresh: Fresh) -> None:
    hold(server, stream, fresh(), 200)
    stream.send(MODEL, numbers(9, 0), sequence_id=fresh(), sequence_start=True, sequence_end=True, timeout=30_000_000)
    assert stream.receive().id == "held"
    assert counted(stream.receive()) == (9, 1)


def test_an_idle_sequence_ends_and_must_be_started_again(server: Server, fresh: Fresh) -> None:
    door, sequence, busy = GrpcDoor(server.grpc), fresh(), fresh()
    one = {"WORK": np.zeros((1, 1), np.float32)}
    assert counted(door.infer(MODEL, {**numbers(5), **one}, sequence_id=sequence, sequence_start=True)) == (5, 1)
    assert counted(door.infer(MODEL, {**numbers(0), **one}, sequence_id=busy, sequence_start=True)) == (0, 1)
    expired, steps = load(server, MODEL).sessions_expired, 1

    def one_has_expired() -> bool:
        nonlocal steps
        steps += 1  # whoever goes on stays, however long it takes
        assert counted(door.infer(MODEL, {**numbers(1), **one}, sequence_id=busy)) == (steps - 1, steps)
        return load(server, MODEL).sessions_expired == expired + 1

    began = time.monotonic()
    until(one_has_expired, "the end of the idle sequence")
    assert time.monotonic() - began > IDLE_S * 0.9
    with pytest.raises(Refusal, match="must specify the START flag"):
        door.infer(MODEL, {**numbers(5), **one}, sequence_id=sequence)
    door.infer(MODEL, {**numbers(5), **one}, sequence_id=busy, sequence_end=True)
    assert counted(door.infer(MODEL, {**numbers(5), **one}, sequence_id=sequence, sequence_start=True)) == (5, 1)
    door.infer(MODEL, {**numbers(5), **one}, sequence_id=sequence, sequence_end=True)
    door.close()


def test_what_has_priority_goes_first(server: Server, stream: Stream, fresh: Fresh) -> None:
    hold(server, stream, fresh(), 500)
    marks = {"sequence_start": True, "sequence_end": True}
    for name, priority in (("low", 3), ("low", 3), ("default", 0), ("high", 1)):
        arrays = numbers(1, 100 if name == "low" else 0)
        stream.send(MODEL, arrays, (), request_id=name, sequence_id=fresh(), priority=priority, **marks)
    assert [stream.receive().id for _ in range(5)] == ["held", "high", "default", "low", "low"]


def ask(door: GrpcDoor, value: int, work: float) -> Pending:
    arrays = {"IN_INT64": np.array([[value]]), "WORK": np.array([[work]], np.float32)}
    return begin(door.client, "identity-slow", arrays)


def test_a_full_queue_refuses_at_once_and_answers_the_rest(server: Server) -> None:
    door = GrpcDoor(server.grpc)
    first = ask(door, 0, 600)
    until(lambda: in_flight(server, "identity-slow") >= 1, "the run at work")
    calls = [ask(door, i, 0) for i in range(1, 4 * MOST_WAITING)]
    outcomes = [call.outcome() for call in calls]
    assert first.receive().outputs["OUT_INT64"].tolist() == [[0]]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert refused and len(calls) - len(refused) >= MOST_WAITING - 1
    for refusal in refused:
        assert "Exceeds maximum queue size" in refusal.message
        assert refusal.status == "StatusCode.UNAVAILABLE"
    for i, outcome in enumerate(outcomes, 1):
        if isinstance(outcome, Answer):
            assert outcome.outputs["OUT_INT64"].tolist() == [[i]]
    assert ask(door, 5, 0).receive().outputs["OUT_INT64"].tolist() == [[5]]  # and it goes on
    door.close()


def test_a_refusal_for_want_of_room_names_the_request(server: Server) -> None:
    door = GrpcDoor(server.grpc)
    first = ask(door, 0, 400)
    until(lambda: in_flight(server, "identity-slow") >= 1, "the run at work")
    arrays = {"IN_INT64": np.array([[1]]), "WORK": np.zeros((1, 1), np.float32)}
    calls = [begin(door.client, "identity-slow", arrays, request_id=f"request {i}") for i in range(4 * MOST_WAITING)]
    for i, call in enumerate(calls):
        outcome = call.outcome()
        if isinstance(outcome, Refusal):
            assert outcome.message.startswith(f"[request id: request {i}] ")
    first.receive()
    door.close()


def test_a_stateless_request_times_out_in_the_queue(server: Server) -> None:
    door = GrpcDoor(server.grpc)
    before = statistics(door.client, "identity-slow").inference_stats.fail.count
    first = ask(door, 0, 600)
    until(lambda: in_flight(server, "identity-slow") >= 1, "the run at work")
    arrays = {"IN_INT64": np.array([[1]]), "WORK": np.zeros((1, 1), np.float32)}
    late = begin(door.client, "identity-slow", arrays, timeout=50_000)
    patient = begin(door.client, "identity-slow", arrays, timeout=60_000_000)
    refusal = late.outcome()
    assert isinstance(refusal, Refusal) and "Request timeout expired" in refusal.message
    assert refusal.status == "StatusCode.UNAVAILABLE"
    assert not first.future.done()
    assert statistics(door.client, "identity-slow").inference_stats.fail.count == before + 1
    assert patient.receive().outputs["OUT_INT64"].tolist() == [[1]]
    assert first.receive().outputs["OUT_INT64"].tolist() == [[0]]
    door.close()


@pytest.mark.parametrize("parameters", [{"timeout": -1}, {"priority": -1}])
def test_a_time_or_priority_below_0_is_refused(server: Server, parameters: dict[str, int], fresh: Fresh) -> None:
    door = HttpDoor(server.http)  # tritonclient's gRPC cannot even send a priority like that
    with pytest.raises(Refusal, match=next(iter(parameters))):
        step(door, "accumulator", 1, fresh(), start=True, end=True, **parameters)
    door.close()
