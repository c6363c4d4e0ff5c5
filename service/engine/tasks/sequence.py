"""One whole sequence through the `sequence` graph: tagging, scoring."""

from collections.abc import Mapping, Sequence

from export.manifest import TensorSpec
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
        super().__init__(request, WorkItem(request.id, "sequence", 1, request.length))
        self.inputs = request.inputs
        self.length = request.length
        self.outputs = request.outputs
        self._has_time = {name: specs[name].shape[1:2] == ("T",) for name in request.outputs}

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Cut the row out of the batch, and its padding off."""
        value = {
            name: outputs.arrays[name][row, : self.length] if has_time else outputs.arrays[name][row]
            for name, has_time in self._has_time.items()
        }
        return (Finished(self.request.id, value),)
