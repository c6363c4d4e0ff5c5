"""Batches of an imported model: the rows of its works put together, name by name."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from export.manifest import GraphKind
from service.engine.tasks.task import Work
from service.engine.tasks.tensors import TensorsTask, join
from service.engine.tensor_session import TensorSession


def tensor_feeds(graph: GraphKind, works: Sequence[Work], time_axes: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a batch, by name.

    Args:
        graph: `step` or `run`.
        works: In row order; those of a batch are of one group.
        time_axes: Of `run`: by input, the axis that is padded.
    """
    if graph == "run":
        return join(cast(Sequence[TensorsTask], works), time_axes)
    sessions = cast(Sequence[TensorSession], works)
    first = sessions[0]
    arrays: dict[str, npt.NDArray[Any]] = {
        "read_slots": np.array([row for session in sessions for row in session.read_rows], dtype=np.int64),
        "write_slots": np.array([row for session in sessions for row in session.write_rows], dtype=np.int64),
    }
    for name, array in first.inputs.items():
        arrays[name] = np.concatenate([session.inputs[name] for session in sessions]) if len(sessions) > 1 else array
    arrays.update(first.shared)
    return arrays
