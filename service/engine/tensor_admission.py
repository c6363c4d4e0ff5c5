"""What an imported model can be asked: names, types and shapes are checked before they could break a whole batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest, TensorSpec, own_tensors, storage
from service.engine.interface import RunTensors, StepTensors, Tensors
from service.engine.sizes import fits
from service.engine.tasks.tensors import RunLayout, TensorsTask
from service.errors import InvalidInput


class TensorAdmission:
    """Checks the requests of one imported model.

    Args:
        manifest: Of the model.
    """

    def __init__(self, manifest: Manifest) -> None:
        assert manifest.imported is not None
        self._imported = manifest.imported
        self._own = own_tensors(manifest)
        self._outputs = frozenset(self._own.outputs)
        self.layout = RunLayout(manifest)

    def check_step(self, request: StepTensors) -> None:
        """Check the steps of a session.

        Raises:
            InvalidInput: They are not what the graph takes.
        """
        self._check(request.inputs, request.shared, request.num_steps, request.outputs)
        if request.num_steps > 1 and (unsized := self._own.unsized.intersection(request.outputs)):
            names = ", ".join(sorted(unsized))
            raise InvalidInput("inputs", f"one step, as only a run tells the sizes of {names}", f"{request.num_steps}")

    def task(self, request: RunTensors) -> TensorsTask:
        """Make the task of a request for a run.

        Raises:
            InvalidInput: It is not what the graph takes.
        """
        self._check(request.inputs, request.shared, request.num_rows, request.outputs)
        most = self._imported.max_rows
        if most is not None and request.num_rows > most:
            raise InvalidInput("num_rows", f"at most {most}", str(request.num_rows))
        lengths = {request.inputs[name].shape[axis] for name, axis in self.layout.input_axes.items()}
        if len(lengths) > 1:
            raise InvalidInput("inputs", "one T for all of them", str(sorted(lengths)))
        return TensorsTask(request, self.layout)

    def _check(self, inputs: Tensors, shared: Tensors, num_rows: int, outputs: tuple[str, ...]) -> None:
        _check_tensors("inputs", self._own.inputs, inputs, num_rows)
        if not self._imported.zero_sizes:  # some kernels end the process
            for name, array in inputs.items():
                if array.size == 0:
                    raise InvalidInput(f"inputs.{name}", "sizes above 0, as the model needs", str(list(array.shape)))
        _check_tensors("shared", self._own.shared, shared, None)
        if num_rows < 1:
            raise InvalidInput("inputs", "at least one row", str(num_rows))
        if not self._outputs.issuperset(outputs):
            raise InvalidInput("outputs", f"some of {sorted(self._outputs)}", str(sorted(outputs)))


def _check_tensors(field: str, specs: Mapping[str, TensorSpec], given: Tensors, num_rows: int | None) -> None:
    if given.keys() != specs.keys():
        raise InvalidInput(field, str(sorted(specs)), str(sorted(given)))
    sizes: dict[str, int] = {}
    for name, spec in specs.items():
        array = given[name]
        expected = spec.shape if num_rows is None else (num_rows, *spec.shape[1:])
        if array.dtype != np.dtype(storage(spec.dtype)) or not fits(array.shape, expected, sizes):
            wanted = f"{spec.dtype} {list(expected)}"
            raise InvalidInput(f"{field}.{name}", wanted, f"{array.dtype} {list(array.shape)}")
        if spec.dtype == "string":
            _check_text(f"{field}.{name}", array)


def _check_text(field: str, array: npt.NDArray[Any]) -> None:
    """ONNX strings are text: bytes that are none would break the run of everybody in the batch."""
    for element in array.flat:
        try:
            element.decode("utf-8")
        except (AttributeError, UnicodeDecodeError):
            raise InvalidInput(field, "bytes of text in UTF-8", "others") from None
