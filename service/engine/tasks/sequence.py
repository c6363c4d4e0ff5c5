"""One whole sequence through the `sequence` graph: tagging, scoring."""

from collections.abc import Mapping, Sequence

import numpy as np

from export.manifest import TensorSpec
from service.decoding.errors import NotANumber
from service.engine.interface import Event, Finished, RunSequence
from service.engine.schedule import WorkItem
from service.engine.tasks.task import Outputs, Task


class SequenceTask(Task):
    """Runs once and is done.

    Args:
        request: What to run.
        specs: Outputs of the graph, by name.
    """

    def __init__(self, request: RunSequence, specs: Mapping[str, TensorSpec]) -> None:
        width = max((array.shape[1] for array in request.inputs.values() if array.ndim > 1), default=1)
        super().__init__(request, WorkItem(request.id, "sequence", 1, request.length, width))
        self.inputs = request.inputs
        self.length = request.length
        self.outputs = request.outputs
        self._has_time = {name: specs[name].shape[1:2] == ("T",) for name in request.outputs}

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Cut the row out of the batch, and its padding off."""
        value = {}
        for name, has_time in self._has_time.items():
            array = outputs.arrays[name][row]
            value[name] = array = array[: self.length] if has_time else array
            if outputs.may_be_broken(name) and np.isnan(array).any():
                raise NotANumber("expected numbers from the model, got NaN")
        return (Finished(self.request.id, value),)
