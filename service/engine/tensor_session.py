"""A session of an imported model: its steps are rows of tensors, whatever they mean.

Only steps whose free sizes and shared inputs are equal can share a run (`WorkItem.group`); a step is one run of the
graph, so there is nothing to merge into chunks.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.interface import Event, Finished, StepTensors, TensorOutputs, Tensors
from service.engine.session import Session, Step
from service.engine.slots import INITIAL_SLOT
from service.engine.tasks.task import Outputs


def group_of(request: StepTensors) -> Hashable:
    """What must be equal for steps to share a run: the shape of each input, and the shared ones whole."""
    shapes = [array.shape[1:] for array in request.inputs.values()]
    if not request.shared:
        return tuple(shapes)
    return (*shapes, *[(array.shape, array.tobytes()) for array in request.shared.values()])


class TensorSession(Session):
    """See the module docstring."""

    __slots__ = ("_rows", "shared")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.shared: Tensors = {}
        self._rows: dict[str, list[npt.NDArray[Any]]] | None = None  # outputs of the first pending request so far

    def check_index(self, request: Step) -> Event | None:
        """Steps of tensors have no index: each is the next one."""
        return None

    def backlog(self, most: int) -> int:
        """One: see the module docstring."""
        return 1

    def group(self) -> Hashable:
        """With which other steps the next one can share a run."""
        head: Any = self.pending[0]
        return group_of(head)

    def take(self, length: int) -> None:
        """Get the row of one step ready; the slot is there and holds the state if the session has one."""
        head: Any = self.pending[0]
        if head.num_steps == 1:
            self.inputs = head.inputs
        else:
            at = self.num_consumed
            self.inputs = {name: values[at : at + 1] for name, values in head.inputs.items()}
        self.shared, self.outputs = head.shared, head.outputs
        assert self.slot is not None
        row = self.slot[0]
        self.write_rows = (row,)
        self.read_rows = self.write_rows if self.started else (INITIAL_SLOT,)

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Count the step and end its request if it was the last of it."""
        self.started = True
        self.num_steps += 1
        head: Any = self.pending[0]
        values = {name: outputs.rows(name, row, 1) for name in head.outputs}
        if head.num_steps > 1:
            if self._rows is None:
                self._rows = {name: [] for name in head.outputs}
            for name, value in values.items():
                self._rows[name].append(value)
            self.num_consumed += 1
            if self.num_consumed < head.num_steps:
                return ()
            values = {name: np.concatenate(rows) for name, rows in self._rows.items()}
        self.answered = (head,)
        self.pop()
        return (Finished(head.id, TensorOutputs(values, self.num_steps)),)

    def pop(self) -> None:
        """Take the first pending request off."""
        super().pop()
        self._rows = None

    def rest(self) -> None:
        """Let go of what only a run needs."""
        super().rest()
        self.shared = {}
