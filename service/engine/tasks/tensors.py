"""One request of an imported model without state: some rows through the `run` graph."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest, TensorSpec, own_tensors
from service.engine.interface import Event, Finished, RunTensors, TensorOutputs
from service.engine.schedule import WorkItem
from service.engine.tasks.task import Outputs, Task

TIME = "T"


class TensorsTask(Task):
    """Runs once and is done.

    Args:
        request: What to run.
        layout: Of the graph.
    """

    def __init__(self, request: RunTensors, layout: "RunLayout") -> None:
        self.length = layout.length(request)
        work = WorkItem(request.id, "run", request.num_rows, self.length, group=layout.group(request))
        super().__init__(request, work)
        self.inputs, self.shared = request.inputs, request.shared
        self.outputs = request.outputs
        self.num_rows = request.num_rows
        self._time_axes = layout.output_axes

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Cut the rows out of the batch, and their padding off."""
        values = {}
        for name in self.outputs:
            value = outputs.rows(name, row, self.num_rows)
            axis = self._time_axes.get(name)
            if axis is not None and value.shape[axis] > self.length:
                value = np.ascontiguousarray(np.take(value, range(self.length), axis=axis))
            values[name] = value
        return (Finished(self.request.id, TensorOutputs(values)),)


class RunLayout:
    """Where the time is in the tensors of a `run` graph, if rows of several lengths can share a run of it.

    Args:
        manifest: Of the model.

    Attributes:
        input_axes: By input, its time axis.
        output_axes: By output, its time axis.
    """

    def __init__(self, manifest: Manifest) -> None:
        assert manifest.imported is not None
        pads = manifest.imported.lengths_input is not None
        own = own_tensors(manifest)
        self.input_axes = _time_axes(own.inputs) if pads else {}
        self.output_axes = _time_axes(own.outputs) if pads else {}

    def length(self, request: RunTensors) -> int:
        """T of a request; 1 where the graph has no such thing."""
        return max((request.inputs[name].shape[axis] for name, axis in self.input_axes.items()), default=1)

    def group(self, request: RunTensors) -> Hashable:
        """What must be equal for requests to share a run: all sizes but rows and time, and the shared inputs."""
        shapes = [self._fixed(name, array.shape) for name, array in request.inputs.items()]
        return (*shapes, *[(array.shape, array.tobytes()) for array in request.shared.values()])

    def _fixed(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = self.input_axes.get(name)
        return shape[1:] if axis is None else (*shape[1:axis], *shape[axis + 1 :])


def _time_axes(tensors: Mapping[str, TensorSpec]) -> dict[str, int]:
    return {name: tensor.shape.index(TIME) for name, tensor in tensors.items() if TIME in tensor.shape}


def join(tasks: Sequence[TensorsTask], axes: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    """Put the rows of several requests into one batch, padded with zeros along time to the longest."""
    longest = max(task.length for task in tasks)
    arrays = {}
    for name in tasks[0].inputs:
        parts = [task.inputs[name] for task in tasks]
        axis = axes.get(name)
        if axis is not None:
            parts = [_pad(part, axis, longest) for part in parts]
        arrays[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return {**arrays, **tasks[0].shared}


def _pad(array: npt.NDArray[Any], axis: int, length: int) -> npt.NDArray[Any]:
    missing = length - array.shape[axis]
    if not missing:
        return array
    return np.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)])
