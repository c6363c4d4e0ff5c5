"""From tasks to the arrays of one batch, without a NumPy call a row where steps are concerned."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from export.manifest import GraphKind, GraphSpec
from models.symbols import PAD_ID
from service.engine.pages import SCRATCH_ROW, ZERO_ROW
from service.engine.slots import SCRATCH_SLOT
from service.engine.tasks.decode import DecodeTask
from service.engine.tasks.sequence import SequenceTask
from service.engine.tasks.task import Steps, Work

Ints = npt.NDArray[np.int64]
# Inputs of the step graph that say where state and memory are; the others come from the tasks' `inputs`.
_PLACES = ("read_slots", "write_slots", "source_rows", "source_lengths")


def row_inputs(spec: GraphSpec) -> dict[str, int]:
    """Inputs of a step graph that a request gives, with their number of dimensions."""
    return {
        tensor.name: len(tensor.shape)
        for tensor in spec.inputs
        if tensor.shape[:1] == ("B",) and tensor.name not in _PLACES
    }


def feeds(graph: GraphKind, names: Mapping[str, int], works: Sequence[Work], num_rows: int = 0) -> dict[str, Ints]:
    """Inputs of a batch, by name.

    Args:
        graph: Which one.
        names: `row_inputs` of the step graph.
        works: In row order.
        num_rows: Rows that a step is padded to; fewer than there are: not at all.
    """
    if graph in ("step", "chunk"):
        arrays = _step(graph, names, cast(Sequence[Steps], works))
        missing = num_rows - len(arrays["read_slots"])
        return _padded(arrays, missing) if missing > 0 else arrays
    if graph == "encode":
        return _encode(cast(Sequence[DecodeTask], works))
    return _sequence(cast(Sequence[SequenceTask], works))


def _step(graph: GraphKind, names: Mapping[str, int], works: Sequence[Steps]) -> dict[str, Ints]:
    arrays = {
        "read_slots": np.array([row for work in works for row in work.read_rows], dtype=np.int64),
        "write_slots": np.array([row for work in works for row in work.write_rows], dtype=np.int64),
    }
    for name, num_dimensions in names.items():
        values: list[Any] = list(chain.from_iterable(work.inputs[name] for work in works))
        if num_dimensions == 2:
            cells = values if graph == "step" else list(chain.from_iterable(values))
            width = max(map(len, cells))
            cells = [value + [PAD_ID] * (width - len(value)) for value in cells]
            arrays[name] = np.array(cells, dtype=np.int64)
            if graph == "chunk":
                arrays[name] = arrays[name].reshape(len(values), -1, width)
        else:
            arrays[name] = np.array(values, dtype=np.int64)
    if works[0].memory is not None:
        memories = [work.memory for work in works for _ in work.read_rows if work.memory is not None]
        arrays["source_rows"], arrays["source_lengths"] = _ragged([memory.rows for memory in memories], ZERO_ROW)
    return arrays


def _padded(arrays: dict[str, Ints], count: int) -> dict[str, Ints]:
    """Add rows that read the initial state, attend to the row of zeros, and write to scratch."""
    fill = {"write_slots": SCRATCH_SLOT, "source_lengths": 1, "word_lengths": 1}
    return {
        name: np.concatenate([array, np.full((count, *array.shape[1:]), fill.get(name, 0), dtype=np.int64)])
        for name, array in arrays.items()
    }


def _encode(tasks: Sequence[DecodeTask]) -> dict[str, Ints]:
    source, lengths = _ragged([np.array(task.source, dtype=np.int64) for task in tasks], PAD_ID)
    rows, _ = _ragged([task.memory.rows for task in tasks if task.memory is not None], SCRATCH_ROW)
    slots = np.array([task.slots[0].row for task in tasks], dtype=np.int64)
    return {"source": source, "lengths": lengths, "source_rows": rows, "write_slots": slots}


def _sequence(tasks: Sequence[SequenceTask]) -> dict[str, Ints]:
    lengths = np.array([task.length for task in tasks], dtype=np.int64)
    longest = int(lengths.max())
    real = np.arange(longest) < lengths[:, None]  # (B, T)
    arrays = {"lengths": lengths}
    for name, first in tasks[0].inputs.items():
        given = [task.inputs[name] for task in tasks]
        if first.ndim == 1:
            # Padding is a word of one character.
            array = np.full(real.shape, 1 if name.endswith("lengths") else PAD_ID, dtype=np.int64)
            array[real] = np.concatenate(given)
        else:
            width = max(cells.shape[1] for cells in given)
            array = np.full((*real.shape, width), PAD_ID, dtype=np.int64)
            for row, cells in zip(array, given, strict=True):
                row[: cells.shape[0], : cells.shape[1]] = cells
        arrays[name] = array
    return arrays


def _ragged(rows: Sequence[Ints], padding: int) -> tuple[Ints, Ints]:
    """Pad to the longest: (B, S), and the lengths (B,)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    padded = np.full((len(rows), int(lengths.max())), padding, dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return padded, lengths
