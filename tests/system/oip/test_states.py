"""What a state goes through: L0_implicit_state and L0_dyna_implicit_state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.system.oip.doors import Door, GrpcDoor, Refusal, counted, numbers, step, whole

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

Fresh = Callable[[], int]


def test_states_are_given_only_when_they_are_asked_for(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    first = door.infer("accumulator", numbers(5), sequence_id=sequence, sequence_start=True)
    assert sorted(first.outputs) == ["INDEX", "OUTPUT"]
    second = door.infer("accumulator", numbers(6), ["total_out", "OUTPUT"], sequence_id=sequence)
    assert list(second.outputs) == ["total_out", "OUTPUT"]
    assert second.outputs["total_out"].tolist() == [[11]]
    assert second.outputs["OUTPUT"].tolist() == [[11]]
    last = door.infer("accumulator", numbers(7), ["steps_out"], sequence_id=sequence, sequence_end=True)
    assert {name: array.tolist() for name, array in last.outputs.items()} == {"steps_out": [[3]]}


def test_a_state_comes_with_its_row_first(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    for i in range(1, 4):
        answer = door.infer(
            "layered",
            {"INPUT": np.array([[1, 10, 100]], np.float32)},
            ["OUTPUT", "hn"],
            sequence_id=sequence,
            sequence_start=i == 1,
        )
        sums, sums_of_sums = [i, 10 * i, 100 * i], [t * (i * (i + 1) // 2) for t in (1, 10, 100)]
        assert answer.outputs["OUTPUT"].tolist() == [[*sums, *sums_of_sums]]
        assert answer.outputs["hn"].tolist() == [[sums, sums_of_sums]]


@pytest.mark.parametrize("output", ["total", "total_pool_out", "NONSENSE"])
def test_an_output_that_is_none_is_refused(door: Door, fresh: Fresh, output: str) -> None:
    sequence = fresh()
    with pytest.raises(Refusal, match=f"unexpected inference output '{output}' for model 'accumulator'"):
        door.infer("accumulator", numbers(1), [output], sequence_id=sequence, sequence_start=True)
    with pytest.raises(Refusal, match="must specify the START flag"):
        step(door, "accumulator", 1, sequence)


def test_a_state_that_is_not_updated_stays(door: Door, fresh: Fresh) -> None:
    sequence = fresh()

    def told(value: int, **options: Any) -> list[list[int]]:
        answer = door.infer("keeper", {"INPUT": whole(value)}, sequence_id=sequence, **options)
        values: list[list[int]] = answer.outputs["OUTPUT"].tolist()
        return values

    assert told(5, sequence_start=True) == [[5]]
    for _ in range(3):
        assert told(-1) == [[4]]
    assert told(2) == [[7]]
    assert told(0, sequence_end=True) == [[7]]


def test_a_start_may_bring_its_state(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    given = {**numbers(1), "total": whole(1000), "steps": whole(70)}
    answer = door.infer("accumulator", given, sequence_id=sequence, sequence_start=True)
    assert counted(answer) == (1001, 71)
    assert step(door, "accumulator", 5, sequence, end=True) == (1006, 72)
    assert step(door, "accumulator", 5, sequence, start=True, end=True) == (5, 1)  # nothing of it stays


def test_states_that_a_start_leaves_out_are_the_models_own(door: Door, fresh: Fresh) -> None:
    answer = door.infer(
        "accumulator",
        {**numbers(1), "total": whole(1000)},
        sequence_id=fresh(),
        sequence_start=True,
        sequence_end=True,
    )
    assert counted(answer) == (1001, 1)


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 1, 3)], ids=["row first", "as in the original"])
def test_a_state_is_brought_as_it_comes_or_as_the_original_has_it(
    door: Door, fresh: Fresh, shape: tuple[int, ...]
) -> None:
    answer = door.infer(
        "layered",
        {"INPUT": np.ones((1, 3), np.float32), "h": np.arange(6, dtype=np.float32).reshape(shape)},
        ["OUTPUT"],
        sequence_id=fresh(),
        sequence_start=True,
        sequence_end=True,
    )
    assert answer.outputs["OUTPUT"].tolist() == [[1, 2, 3, 4, 6, 8]]


def test_what_one_server_gave_another_sequence_goes_on_with(door: Door, fresh: Fresh) -> None:
    first, second = fresh(), fresh()
    step(door, "accumulator", 5, first, start=True)
    asked = ["OUTPUT", "INDEX", "total_out", "steps_out"]
    out = door.infer("accumulator", numbers(6), asked, sequence_id=first).outputs
    moved = {**numbers(7), "total": out["total_out"], "steps": out["steps_out"]}
    assert counted(door.infer("accumulator", moved, sequence_id=second, sequence_start=True)) == (18, 3)
    assert step(door, "accumulator", 7, first) == (18, 3)


def test_only_a_start_may_bring_a_state(grpc_door: GrpcDoor, fresh: Fresh) -> None:
    sequence = fresh()
    step(grpc_door, "accumulator", 5, sequence, start=True)
    with pytest.raises(Refusal, match="total") as refused:
        grpc_door.infer("accumulator", {**numbers(1), "total": whole(1000)}, sequence_id=sequence)
    assert refused.value.status == "StatusCode.INVALID_ARGUMENT"
    assert step(grpc_door, "accumulator", 1, sequence, end=True) == (6, 2)  # as if it had not been asked


@pytest.mark.parametrize(
    "state",
    [np.zeros((1, 2), np.int64), np.zeros((1, 1, 1), np.int64), np.zeros((1, 1), np.int32)],
    ids=["width", "rank", "type"],
)
def test_a_state_of_another_shape_or_type_is_refused(
    grpc_door: GrpcDoor, fresh: Fresh, state: npt.NDArray[Any]
) -> None:
    sequence = fresh()
    with pytest.raises(Refusal, match="'total'") as refused:
        grpc_door.infer("accumulator", {**numbers(1), "total": state}, sequence_id=sequence, sequence_start=True)
    assert refused.value.status == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(Refusal, match="must specify the START flag"):
        step(grpc_door, "accumulator", 1, sequence)


def test_every_step_of_a_request_updates_every_layer(door: Door, fresh: Fresh) -> None:
    sequence = fresh()
    values = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    answer = door.infer("layered", {"INPUT": values}, sequence_id=sequence, sequence_start=True, sequence_end=True)
    sums = np.cumsum(values, axis=1)
    np.testing.assert_array_equal(answer.outputs["OUTPUT"], np.concatenate([sums, np.cumsum(sums, axis=1)], axis=2))


def test_a_model_whose_batch_is_one_serves_many_sequences(door: Door, fresh: Fresh) -> None:
    sequences = [fresh() for _ in range(5)]
    for i in range(1, 4):
        for k, sequence in enumerate(sequences):
            assert step(door, "accumulator-one", k, sequence, start=i == 1, end=i == 3) == (k * i, i)
