"""Check that exported graphs do what the PyTorch module does, before anybody can load them.

This and `export.quantize` are the only parts of `export` that run ONNX Runtime.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from export.backend import Array, Feeds, Floats
from export.manifest import GraphKind, Manifest
from export.probes import inputs, outputs, pool_specs


class OnnxBackend:
    """The graphs of a bundle in ONNX Runtime on the CPU, one thread, with the pools updated in place as in the service.

    Args:
        folder: Of the bundle.
        manifest: What is in it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._manifest = manifest
        self._sessions = {
            kind: ort.InferenceSession(folder / graph.file, options, providers=["CPUExecutionProvider"])
            for kind, graph in manifest.graphs.items()
        }
        self._arrays: dict[str, Floats] = {}
        self._values: dict[str, ort.OrtValue] = {}

    @property
    def pools(self) -> Mapping[str, Floats]:
        """See `Backend`; the arrays are the memory that ONNX Runtime reads and writes."""
        return self._arrays

    def allocate(self, num_slots: int, num_rows: int) -> None:
        """See `Backend`."""
        sizes = {spec.name: (num_slots, *spec.shape) for spec in self._manifest.states if spec.pool_input is not None}
        sizes |= {spec.name: (num_rows, *spec.shape) for spec in self._manifest.memories}
        self._arrays = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._arrays.items()}

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        """See `Backend`."""
        session, graph = self._sessions[kind], self._manifest.graphs[kind]
        binding = session.io_binding()
        taken, given = {spec.name for spec in graph.inputs}, {spec.name for spec in graph.outputs}
        for pool in pool_specs(self._manifest):
            if pool.pool_input in taken:
                binding.bind_ortvalue_input(pool.pool_input, self._values[pool.name])
            if pool.pool_output in given:
                binding.bind_ortvalue_output(pool.pool_output, self._values[pool.name])
        for spec in inputs(self._manifest, kind):
            binding.bind_cpu_input(spec.name, np.ascontiguousarray(feeds[spec.name]))
        num_pools = len(given) - len(outputs(self._manifest, kind))
        for spec in outputs(self._manifest, kind):
            binding.bind_output(spec.name)
        session.run_with_iobinding(binding)
        values = binding.get_outputs()[num_pools:]
        return {spec.name: value.numpy() for spec, value in zip(outputs(self._manifest, kind), values, strict=True)}
