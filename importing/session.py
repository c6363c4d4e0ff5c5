"""Run a model in ONNX Runtime, one thread, on the CPU: the truth that everything else is held against.

Beside `importing.reading.trial`, which tries unknown files in a process of its own, this is the only part of
`importing` that imports onnxruntime.
"""

import ctypes
import os
import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from export.graph.types import ELEMENT_TYPES, RUNTIME_TYPES
from export.manifest import DType, storage
from importing.errors import ImportRefused

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
_SILENT: Final = 4
_MOST_S: Final = 30.0  # of one run: a loop of a model need not end


Feeds = Mapping[str, Array]


class Pool(NamedTuple):
    """An array that a run reads at an input and overwrites with the output of that name, as the service does it."""

    array: Array
    output: str


_NO_POOLS: Final[Mapping[str, Pool]] = {}


class RunFailed(Exception):
    """ONNX Runtime did not take these inputs; its first line."""


class Session:
    """One model, opened.

    Args:
        model: Checked.

    Raises:
        ImportRefused: ONNX Runtime cannot run it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        # As the service runs it: the same kernels, and so the same rounding.
        try:
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its types are many
            raise ImportRefused(f"ONNX Runtime {ort.__version__} cannot run the model: {first_line(error)}") from None
        given = (*self._session.get_inputs(), *self._session.get_overridable_initializers())
        self._inputs = {v.name: RUNTIME_TYPES[v.type] for v in given if v.type in RUNTIME_TYPES}
        self._outputs = {v.name: RUNTIME_TYPES[v.type] for v in self._session.get_outputs() if v.type in RUNTIME_TYPES}

    def run(self, feeds: Feeds, pools: Mapping[str, Pool] = _NO_POOLS) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: By input name.
            pools: By input name, what is read there and overwritten.

        Returns:
            By output name, all but those that overwrite.

        Raises:
            RunFailed: The model does not take these, or not within half a minute.
        """
        options = ort.RunOptions()
        watch = threading.Timer(_MOST_S, _stop, (options,))
        watch.daemon = True
        watch.start()
        overwritten = {pool.output for pool in pools.values()}
        wanted = [name for name in self._outputs if name not in overwritten]
        try:
            if any(self._inputs.get(name) == "string" for name in feeds):
                return self._run_apart(feeds, pools, wanted, options)
            return self._run_in_place(feeds, pools, wanted, options)
        except Exception as error:  # its types are many
            took = f"a run took more than {_MOST_S:g} s: " if options.terminate else ""
            raise RunFailed(took + first_line(error)) from None
        finally:
            watch.cancel()

    def _run_in_place(
        self, feeds: Feeds, pools: Mapping[str, Pool], wanted: list[str], options: ort.RunOptions
    ) -> dict[str, Array]:
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, self._ort_value(array, self._inputs[name]))
        values = {name: self._ort_value(pool.array, self._inputs[name]) for name, pool in pools.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(pools[name].output, value)
        for name in wanted:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding, options)
        for name, value in values.items():
            if value.data_ptr() != pools[name].array.ctypes.data:  # it was copied: bring back what was written
                pools[name].array[...] = _to_array(value, self._inputs[name])
        results = binding.get_outputs()[len(pools) :]
        return {name: _to_array(value, self._outputs[name]) for name, value in zip(wanted, results, strict=True)}

    def _run_apart(
        self, feeds: Feeds, pools: Mapping[str, Pool], wanted: list[str], options: ort.RunOptions
    ) -> dict[str, Array]:
        """Text cannot be bound."""
        outputs = [*wanted, *[pool.output for pool in pools.values()]]
        results = self._session.run(outputs, {**feeds, **{name: pool.array for name, pool in pools.items()}}, options)
        for pool, array in zip(pools.values(), results[len(wanted) :], strict=True):
            pool.array[...] = array
        return dict(zip(wanted, results, strict=False))

    @staticmethod
    def _ort_value(array: Array, dtype: DType) -> ort.OrtValue:
        array = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes a scalar one axis
        if dtype == "bfloat16":
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, ELEMENT_TYPES[dtype])
        return ort.OrtValue.ortvalue_from_numpy(array)


def _stop(options: ort.RunOptions) -> None:
    options.terminate = True


def _to_array(value: ort.OrtValue, dtype: DType) -> Array:
    if dtype != "bfloat16":
        return np.array(value.numpy())
    shape = tuple(value.shape())
    result = np.empty(shape, storage(dtype))
    ctypes.memmove(result.ctypes.data, value.data_ptr(), result.nbytes)
    return result


def first_line(error: BaseException) -> str:
    """What is worth reading of an error that may run over many lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
