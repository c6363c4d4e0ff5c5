"""Sequences through every client: L0_sequence_batcher's and L0_sequence_corrid_batcher's simple cases."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from tests.system.oip.doors import Door, GrpcDoor, HttpDoor, Refusal, Stream, counted, numbers, step, whole
from tests.system.oip.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

MODEL = "accumulator"
Fresh = Callable[[], int]


def start_missing(sequence: int | str, model: str = MODEL) -> str:
    """What a request of a sequence that is not there is told."""
    return (
        f"inference request for sequence {sequence} to model '{model}' must specify the START flag on the first "
        "request of the sequence"
    )


def test_a_sequence_sums_what_it_is_given(door: Door, fresh: Fresh) -> None:
    sequence, values = fresh(), [3, -1, 4, 1, -5, 9, 2, 6]
    for i, value in enumerate(values):
        told = step(door, MODEL, value, sequence, start=i == 0, end=i == len(values) - 1)
        assert told == (sum(values[: i + 1]), i + 1)


def test_a_sequence_of_one_request_starts_and_ends_with_it(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    assert step(door, MODEL, 42, sequence, start=True, end=True) == (42, 1)
    with pytest.raises(Refusal, match="must specify the START flag"):
        step(door, MODEL, 1, sequence)


def test_a_request_of_two_rows_is_refused(door: Door, fresh: Fresh) -> None:
    with pytest.raises(Refusal) as refused:
        door.infer(MODEL, {"INPUT": whole([[1], [2]])}, sequence_id=fresh(), sequence_start=True)
    assert refused.value.message == (
        f"inference request to model '{MODEL}' must specify batch-size 1 due to requirements of sequence batcher"
    )


def test_a_request_without_a_sequence_is_refused(door: Door) -> None:
    with pytest.raises(Refusal) as refused:
        door.infer(MODEL, numbers(1))
    assert refused.value.message == (
        f"inference request to model '{MODEL}' must specify a non-zero or non-empty correlation ID"
    )


def test_an_unknown_sequence_must_be_started(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    with pytest.raises(Refusal) as refused:
        step(door, MODEL, 1, sequence)
    assert refused.value.message == start_missing(sequence)
    assert step(door, MODEL, 7, sequence, start=True, end=True) == (7, 1)  # the refusal left nothing behind


def test_an_ended_sequence_must_be_started_again(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    step(door, MODEL, 1, sequence, start=True)
    assert step(door, MODEL, 2, sequence, end=True) == (3, 2)
    with pytest.raises(Refusal) as refused:
        step(door, MODEL, 3, sequence)
    assert refused.value.message == start_missing(sequence)


def test_a_start_on_a_live_sequence_begins_a_new_one(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    assert step(door, MODEL, 1, sequence, start=True) == (1, 1)
    assert step(door, MODEL, 9, sequence) == (10, 2)
    assert step(door, MODEL, 100, sequence, start=True) == (100, 1)
    assert step(door, MODEL, 1, sequence, end=True) == (101, 2)


def test_a_sequence_may_be_named_by_a_string(door: Door, fresh: Fresh) -> None:
    sequence = f"a sequence – {fresh()}"
    assert step(door, MODEL, 5, sequence, start=True) == (5, 1)
    assert step(door, MODEL, 6, sequence, end=True) == (11, 2)
    with pytest.raises(Refusal, match="must specify the START flag"):
        step(door, MODEL, 7, sequence)


def test_a_number_and_its_digits_are_two_sequences(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    assert step(door, MODEL, 5, sequence, start=True) == (5, 1)
    assert step(door, MODEL, 7, str(sequence), start=True) == (7, 1)
    assert step(door, MODEL, 1, sequence, end=True) == (6, 2)
    assert step(door, MODEL, 1, str(sequence), end=True) == (8, 2)


def test_the_greatest_and_the_least_numbers_name_sequences(grpc_door: GrpcDoor) -> None:
    for sequence in (2**63 - 1, -(2**63), -1, 1):
        assert step(grpc_door, MODEL, 5, sequence, start=True) == (5, 1)
    for sequence in (2**63 - 1, -(2**63), -1, 1):
        assert step(grpc_door, MODEL, 1, sequence, end=True) == (6, 2)


def test_equal_sequences_of_two_models_are_two(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    assert step(door, MODEL, 1, sequence, start=True) == (1, 1)
    assert step(door, "accumulator-one", 2, sequence, start=True) == (2, 1)
    assert step(door, MODEL, 1, sequence, end=True) == (2, 2)
    assert step(door, "accumulator-one", 2, sequence, end=True) == (4, 2)


def test_equal_sequences_of_two_callers_are_two(server: Server, fresh: Fresh) -> None:
    sequence = fresh()
    callers = [{"carryover-caller": f"caller-of-the-test-{i}"} for i in range(2)]
    grpc, http = GrpcDoor(server.grpc), HttpDoor(server.http)
    assert step(grpc, MODEL, 1, sequence, start=True) == (1, 1)
    assert step(grpc, MODEL, 10, sequence, start=True, headers=callers[0]) == (10, 1)
    assert step(http, MODEL, 100, sequence, start=True, headers=callers[1]) == (100, 1)
    assert step(http, MODEL, 1, sequence, end=True) == (2, 2)  # of the caller without a name, through the other door
    assert step(http, MODEL, 1, sequence, end=True, headers=callers[0]) == (11, 2)
    stream = Stream(server.grpc, callers[1])
    stream.send(MODEL, numbers(1), sequence_id=sequence, sequence_end=True)
    assert counted(stream.receive()) == (101, 2)
    for opened in (grpc, http, stream):
        opened.close()


def test_several_steps_of_one_request_are_taken_in_turn(door: Door, fresh: Fresh) -> None:
    sequence, values = fresh(), [1, 10, 100, 1000]
    step(door, MODEL, 5, sequence, start=True)
    answer = door.infer(MODEL, {"INPUT": np.array(values, np.int64).reshape(1, 4, 1)}, sequence_id=sequence)
    assert answer.outputs["OUTPUT"].tolist() == [[[6], [16], [116], [1116]]]
    assert answer.outputs["INDEX"].tolist() == [[[2], [3], [4], [5]]]
    assert step(door, MODEL, 0, sequence, end=True) == (1116, 6)


def test_what_a_request_says_of_itself_is_echoed(door: Door, fresh: Fresh) -> None:
    answer = door.infer(
        MODEL, numbers(1), sequence_id=fresh(), sequence_start=True, sequence_end=True, request_id="my request"
    )
    assert (answer.id, answer.model_name, answer.model_version) == ("my request", MODEL, "1")


def test_interleaved_sequences_never_mix(door: Door, fresh: Fresh) -> None:
    rng = random.Random(3)
    live: dict[int, list[int]] = {}
    for _ in range(120):
        if not live or (len(live) < 12 and rng.random() < 0.3):
            sequence = fresh()
            live[sequence] = []
        sequence = rng.choice(list(live))
        value, end = rng.randrange(-1000, 1000), rng.random() < 0.1
        live[sequence].append(value)
        seen = live[sequence]
        assert step(door, MODEL, value, sequence, start=len(seen) == 1, end=end) == (sum(seen), len(seen))
        if end:
            del live[sequence]
    for sequence, seen in live.items():
        assert step(door, MODEL, 0, sequence, start=not seen, end=True) == (sum(seen), len(seen) + 1)
