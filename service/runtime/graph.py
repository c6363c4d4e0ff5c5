"""One graph of a bundle: its pools bound, its inputs and outputs bound as they come.

Graphs that update pools run thousands of times a second in few shapes; for those, buffers are bound once and filled in.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import DType, GraphSpec, Manifest, storage
from service.runtime.errors import RunnerError
from service.runtime.pools import Pools
from service.runtime.prepared import MOST_BYTES_EACH, Prepared, Shelf
from service.runtime.values import BFLOAT16, copy_of, decoded, element_type, encoded

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
# A step's (B, V), the one output that is large: fresh memory for it costs the kernel more than the copy. It lies in one
# buffer, which the next run overwrites.
_OVERWRITTEN: Final = frozenset({"log_probs"})
_MOST_BINDINGS: Final = 64  # sets of outputs wanted, a lane


class Graph:
    """See the module docstring.

    Args:
        session: Of ONNX Runtime.
        spec: What it should take and give.
        manifest: Of the bundle.
        pools: All of the bundle.
        options: Of runs that are given none.

    Attributes:
        read: Pool inputs that the graph has.
        updated: By pool input that the graph updates, the output with the update.
        fed: Its other inputs.
        initial: Names of those that are zeros unless given.
        unsized: Names of outputs whose sizes only the run tells: ONNX Runtime allocates them.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        spec: GraphSpec,
        manifest: Manifest,
        pools: Pools,
        options: ort.RunOptions | None = None,
    ) -> None:
        check_signature(spec, session)
        self.spec = spec
        self._session = session
        self._pools = pools
        self._usual = options
        given = {tensor.name for tensor in spec.inputs}
        returned = {tensor.name for tensor in spec.outputs}
        pairs: dict[str | None, str | None] = {state.pool_input: state.pool_output for state in manifest.states}
        pairs |= {memory.pool_input: memory.pool_output for memory in manifest.memories}
        self.read = [name for name in pairs if name is not None and name in given]
        self.updated = {name: out for name in self.read if (out := pairs[name]) is not None and out in returned}
        self._dtypes = {tensor.name: tensor.dtype for tensor in spec.inputs}
        self.fed = [tensor for tensor in spec.inputs if tensor.name not in pools.names]
        self._outputs = {tensor.name: tensor for tensor in spec.outputs}
        # Initial states: inputs of the sequence graph that are zeros unless given.
        self.initial = {s.sequence_input for s in manifest.states if s.sequence_input is not None}
        # By lane, so that no two threads share one.
        self._bindings: dict[int, OrderedDict[tuple[str, ...], ort.IOBinding]] = {}
        self._buffers: dict[tuple[int, str], Array] = {}
        self._prepared: dict[int, Shelf] = {}
        self._zeros: dict[str, Array] = {}  # by dtype, as many as were needed at a time
        self._has_text = any(tensor.dtype == "string" for tensor in (*self.fed, *spec.outputs))
        if self._has_text and self.updated:
            raise RunnerError(f"{spec.file}: expected no text beside states, which are bound, got tensors of text")
        known = {d for tensor in self.fed for d in tensor.shape} | {d for t in spec.outputs for d in t.shape[:1]}
        self.unsized = {
            tensor.name for tensor in spec.outputs if any(isinstance(d, str) and d not in known for d in tensor.shape)
        }

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        lane: int = 0,
        options: ort.RunOptions | None = None,
    ) -> dict[str, Array]:
        """Run once; see `Runner.run`."""
        options = options or self._usual
        if self._has_text:
            return self._run_text(inputs, outputs, options)
        if not self.updated or not _OVERWRITTEN.isdisjoint(outputs) or not self.unsized.isdisjoint(outputs):
            return self.run_anew(inputs, outputs, lane, options)
        shelf = self._prepared.get(lane)
        if shelf is None:
            shelf = self._prepared[lane] = Shelf()
        key = (outputs, *[(name, array.shape, array.dtype) for name, array in inputs.items()])
        prepared = shelf.find(key)
        if prepared is None:
            # Running it proves that the inputs are right; the next batch of the same shape has only to fill them in.
            results = self.run_anew(inputs, outputs, lane, options)
            if sum(array.nbytes for array in (*inputs.values(), *results.values())) <= MOST_BYTES_EACH:
                shelf.put(key, self._prepare(inputs, results, outputs))
            return results
        for name, array in inputs.items():
            prepared.inputs[name][...] = array
        self._session.run_with_iobinding(prepared.binding, options)
        return prepared.outputs

    def _prepare(self, inputs: Mapping[str, Array], results: Mapping[str, Array], outputs: tuple[str, ...]) -> Prepared:
        """Bind buffers for batches of the shapes of one that ran."""
        binding = self._bind(outputs)
        own = {name: np.ascontiguousarray(array).copy() for name, array in inputs.items()}
        given = {name: np.empty_like(array) for name, array in results.items()}
        for name, array in own.items():
            self._feed(binding, name, array)
        for name, array in given.items():
            binding.bind_output(name, "cpu", 0, element_type(self._outputs[name].dtype), array.shape, array.ctypes.data)
        return Prepared(binding, own, given)

    def _feed(self, binding: ort.IOBinding, name: str, array: Array) -> None:
        """Bind an input to an array, contiguous, which must outlive the run."""
        if self._dtypes[name] == "bfloat16":
            binding.bind_input(name, "cpu", 0, BFLOAT16, array.shape, array.ctypes.data)
        else:
            binding.bind_cpu_input(name, array)

    def _run_text(
        self, inputs: Mapping[str, Array], outputs: tuple[str, ...], options: ort.RunOptions | None
    ) -> dict[str, Array]:
        """Run a graph that has strings, which cannot be bound; they come and go as bytes."""
        fed = {name: decoded(array) if array.dtype == object else array for name, array in inputs.items()}
        results = self._session.run(outputs, fed, options)
        return {
            name: encoded(array) if array.dtype.kind in "OU" else array
            for name, array in zip(outputs, results, strict=True)
        }

    def run_anew(
        self, inputs: Mapping[str, Array], outputs: tuple[str, ...], lane: int, options: ort.RunOptions | None
    ) -> dict[str, Array]:
        """Run once with bindings that are made, or made anew, for it."""
        binding = self._binding(lane, outputs) if self._pools.in_place else self._bind(outputs)
        sizes = self.sizes(inputs)
        held: list[Array] = []  # until it has run
        for tensor in self.fed:
            array = inputs.get(tensor.name)
            if array is None:
                shape = [sizes[d] if isinstance(d, str) else d for d in tensor.shape]
                binding.bind_cpu_input(tensor.name, self._zero(tensor.dtype, math.prod(shape)).reshape(shape))
            else:
                # What came over a wire may not be.
                held.append(np.require(array, requirements=("C_CONTIGUOUS", "ALIGNED")))
                self._feed(binding, tensor.name, held[-1].reshape(array.shape))
        results: dict[str, Array] = {}
        for name in outputs:
            tensor = self._outputs[name]
            if name in self.unsized:
                binding.bind_output(name, "cpu")
                continue
            shape = [sizes[d] if isinstance(d, str) else d for d in tensor.shape]
            result = results[name] = self._space(lane, name, shape, tensor.dtype)
            binding.bind_output(name, "cpu", 0, element_type(tensor.dtype), shape, result.ctypes.data)
        self._session.run_with_iobinding(binding, options)
        if not self.unsized.isdisjoint(outputs):
            values = dict(zip((*self.updated.values(), *outputs), binding.get_outputs(), strict=True))
            results |= {name: copy_of(values[name]) for name in outputs if name in self.unsized}
        return results

    def sizes(self, inputs: Mapping[str, Array]) -> dict[str, int]:
        """Sizes of what the inputs leave free, by symbol.

        Raises:
            RunnerError: The inputs are not those of the graph.
        """
        if unknown := inputs.keys() - {tensor.name for tensor in self.fed}:
            raise RunnerError(f"inputs: expected {[t.name for t in self.fed]}, got also {sorted(unknown)}")
        sizes: dict[str, int] = {}
        for tensor in self.fed:
            array = inputs.get(tensor.name)
            if array is None:
                continue
            if array.dtype != storage(tensor.dtype) or array.ndim != len(tensor.shape):
                wanted = f"{tensor.dtype} {tensor.shape}"
                raise RunnerError(f"input {tensor.name}: expected {wanted}, got {array.dtype} {array.shape}")
            for dimension, size in zip(tensor.shape, array.shape, strict=True):
                expected = dimension if isinstance(dimension, int) else sizes.setdefault(dimension, size)
                if size != expected:
                    raise RunnerError(f"input {tensor.name}: expected {dimension} = {expected}, got {array.shape}")
        for tensor in self.fed:
            if tensor.name not in inputs and tensor.name not in self.initial:
                raise RunnerError(f"inputs: expected {tensor.name}, got {sorted(inputs)}")
        return sizes

    def check_outputs(self, outputs: Collection[str]) -> None:
        """See that outputs may be asked for.

        Raises:
            RunnerError: There are no such outputs but pools.
        """
        if unknown := set(outputs) - self._outputs.keys() | set(outputs) & set(self.updated.values()):
            raise RunnerError(f"outputs: expected some of {list(self._outputs)} but pools, got {sorted(unknown)}")

    def _binding(self, lane: int, outputs: tuple[str, ...]) -> ort.IOBinding:
        """The binding of a lane for these outputs; the least recently used of many are let go."""
        bindings = self._bindings.setdefault(lane, OrderedDict())
        binding = bindings.get(outputs)
        if binding is None:
            if len(bindings) >= _MOST_BINDINGS:
                bindings.popitem(last=False)
            binding = bindings[outputs] = self._bind(outputs)
        else:
            bindings.move_to_end(outputs)
        return binding

    def _zero(self, dtype: str, size: int) -> Array:
        """Zeros, which nobody writes: initial states that are not given."""
        zeros = self._zeros.get(dtype)
        if zeros is None or zeros.size < size:
            zeros = self._zeros[dtype] = np.zeros(size, dtype=dtype)
        return zeros[:size]

    def _space(self, lane: int, name: str, shape: list[int], dtype: DType) -> Array:
        """Where an output goes."""
        if name not in _OVERWRITTEN:
            return np.empty(shape, dtype=storage(dtype))
        size = math.prod(shape)
        buffer = self._buffers.get((lane, name))
        if buffer is None or buffer.size < size:
            buffer = self._buffers[lane, name] = np.empty(size, dtype=dtype)
        return buffer[:size].reshape(shape)

    def run_apart(self, inputs: Mapping[str, Array], pools: Mapping[str, Array]) -> dict[str, Array]:
        """Run on copies of the pools, the plain way, and return the updated pools by their input's name."""
        names = list(self.updated.values())
        feeds = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
            if self._dtypes[name] == "bfloat16"
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in {**inputs, **pools}.items()
        }
        values = self._session.run_with_ort_values(names, feeds, self._usual)
        return {name: copy_of(value) for name, value in zip(self.updated, values, strict=True)}

    def _bind(self, outputs: tuple[str, ...]) -> ort.IOBinding:
        self.check_outputs(outputs)
        binding = self._session.io_binding()
        self._pools.bind(binding, self.read, self.updated)
        return binding


def check_signature(spec: GraphSpec, session: ort.InferenceSession) -> None:
    """Compare what a graph takes and gives with the manifest.

    Raises:
        RunnerError: They differ.
    """
    for what, declared, found in (
        ("inputs", spec.inputs, session.get_inputs()),
        ("outputs", spec.outputs, session.get_outputs()),
    ):
        expected, got = sorted(t.name for t in declared), sorted(t.name for t in found)
        if expected != got:
            raise RunnerError(f"{spec.file}: {what}: expected {expected} as in the manifest, got {got}")
