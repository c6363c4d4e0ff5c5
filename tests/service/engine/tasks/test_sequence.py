"""A sequence takes its own row, cut to its length, and is broken by nobody's NaN but its own."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.manifest import TensorSpec
from service.decoding.errors import NotANumber
from service.engine.interface import Finished, RunSequence
from service.engine.tasks.sequence import SequenceTask
from service.engine.tasks.task import Outputs

SPECS = {
    "scores": TensorSpec(name="scores", dtype="float32", shape=("B", "T", 2)),
    "total": TensorSpec(name="total", dtype="float32", shape=("B",)),
}


def batch(lengths: list[int]) -> tuple[list[SequenceTask], dict[str, npt.NDArray[np.float32]]]:
    """Tasks, and outputs of a batch of them in which every number is another."""
    longest = max(lengths)
    tasks = [
        SequenceTask(RunSequence(i, {"words": np.zeros(length, np.int64)}, length, tuple(SPECS)), SPECS)
        for i, length in enumerate(lengths, 1)
    ]
    scores = np.arange(len(lengths) * longest * 2, dtype=np.float32).reshape(len(lengths), longest, 2)
    return tasks, {"scores": scores, "total": -np.arange(len(lengths), dtype=np.float32)}


def value(task: SequenceTask, outputs: Outputs, row: int) -> dict[str, Any]:
    (event,) = task.advance(outputs, row)
    assert isinstance(event, Finished)
    assert isinstance(event.value, dict)
    return event.value


def test_each_gets_its_row_without_the_padding() -> None:
    tasks, arrays = batch([2, 3, 1])
    outputs = Outputs(arrays)
    for row, task in enumerate(tasks):
        got = value(task, outputs, row)
        assert got["scores"].tolist() == [[row * 6 + t * 2, row * 6 + t * 2 + 1] for t in range(task.length)]
        assert got["total"] == -row


@pytest.mark.parametrize("infinite", [False, True])
def test_nan_breaks_its_own_row_alone(infinite: bool) -> None:
    tasks, arrays = batch([2, 3, 1])
    arrays["scores"][1, 2, 0] = np.nan
    arrays["scores"][2, 2, 1] = np.nan  # padding
    if infinite:
        arrays["total"][:2] = np.inf, -np.inf  # no NaN, though their sum is
    outputs = Outputs(arrays)
    assert value(tasks[0], outputs, 0)["total"] == arrays["total"][0]
    with pytest.raises(NotANumber):
        tasks[1].advance(outputs, 1)
    assert value(tasks[2], outputs, 2)["scores"].tolist() == [[12, 13]]
    arrays["total"][2] = np.nan
    with pytest.raises(NotANumber):
        tasks[2].advance(Outputs(arrays), 2)
