"""A model as it came, run in a loop: one session, one step after the other, its states handed from run to run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import StateSpec

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which is when it counts
import onnxruntime

Array = npt.NDArray[Any]


class Original:
    """One model and its states.

    Args:
        file: The original.
        states: What it keeps from step to step, as the import found them; they start as zeros.
    """

    def __init__(self, file: Path, states: Sequence[StateSpec]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._pairs = {str(state.sequence_input): str(state.sequence_output) for state in states}
        self._initial = {str(state.sequence_input): np.zeros(_shape(state), state.dtype) for state in states}
        self._names = [value.name for value in self._session.get_outputs()]

    def loop(self, steps: Mapping[str, Array], shared: Mapping[str, Array]) -> dict[str, Array]:
        """Run a session from its start.

        Args:
            steps: By input, (num_steps, *shape of one step), without its batch axis.
            shared: Inputs that stay as they are.

        Returns:
            By output that is no state, (num_steps, *its shape).
        """
        kept = dict(self._initial)
        given: dict[str, list[Array]] = {name: [] for name in self._names if name not in self._pairs.values()}
        for step in range(len(next(iter(steps.values())))):
            feeds = {name: values[step : step + 1] for name, values in steps.items()}
            results = dict(zip(self._names, self._session.run(None, {**feeds, **shared, **kept}), strict=True))
            kept = {name: results[output] for name, output in self._pairs.items()}
            for name, values in given.items():
                values.append(results[name])
        return {name: np.stack(values) for name, values in given.items()}


def _shape(state: StateSpec) -> tuple[int, ...]:
    """One session's state as the original has it."""
    if state.batch_axis is None:
        return state.shape
    return *state.shape[: state.batch_axis], 1, *state.shape[state.batch_axis :]
