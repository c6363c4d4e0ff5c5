"""Run emitted graphs on ONNX Runtime the way the service does: one thread, pools bound in place."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

Array = npt.NDArray[Any]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(one: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Plain run: every output by name."""
    names = [output.name for output in one.get_outputs()]
    return dict(zip(names, one.run(names, dict(inputs)), strict=True))


class Pooled:
    """Pools that the runs of several graphs update in place.

    Args:
        pools: By name of the graph input; `<name>_out` is the output of the same pool.
    """

    def __init__(self, pools: Mapping[str, Array]) -> None:
        self.arrays = {name: array.copy() for name, array in pools.items()}
        self.values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self.arrays.items()}

    def numpy(self, name: str) -> Array:
        return np.asarray(self.values[name].numpy())

    def run(self, one: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run with the pools bound; returns the other outputs."""
        binding = one.io_binding()
        for value in one.get_inputs():
            if value.name in self.values:
                binding.bind_ortvalue_input(value.name, self.values[value.name])
            else:
                binding.bind_cpu_input(value.name, np.ascontiguousarray(inputs[value.name]))
        others: list[str] = []
        for value in one.get_outputs():
            pool = value.name.removesuffix("_out")
            if value.name.endswith("_out") and pool in self.values:
                binding.bind_ortvalue_output(value.name, self.values[pool])
            else:
                others.append(value.name)
                binding.bind_output(value.name)
        one.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        names = [value.name for value in one.get_outputs()]
        return {name: outputs[names.index(name)].numpy() for name in others}
