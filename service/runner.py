"""ONNX Runtime, and nothing else: arrays in, arrays out, the state of every session kept in place.

A runner opens the graphs of one bundle and owns its state and memory pools. Each pool is bound as a graph's input and
as its output, the same buffer, so that a step rewrites the rows it was told to write and copies nothing else. That
ONNX Runtime really does so is proved on the actual buffers when the runner opens (see `service.probe`).

Several threads may run graphs at the same time, each in its own lane, as long as no row that one writes is read or
written by another; scratch rows, which nobody reads, excepted.

This file and `service.scratch` are the only ones of the service that import onnxruntime.
"""

import contextlib
import ctypes
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from export.bundle import load_initial_states
from export.manifest import DType, GraphKind, GraphSpec, Manifest, MemorySpec, StateSpec, storage
from service import probe, scratch
from service.placement import working_nodes
from service.probe_imported import probe_imported

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
Provider = Literal["auto", "cuda", "cpu"]
CPU: Final = "CPUExecutionProvider"
INITIAL_ROW: Final = 0  # of the state pools
BFLOAT16: Final = 16  # of onnx.TensorProto: NumPy has none
CUDA: Final = "CUDAExecutionProvider"
# A step's (B, V), the one output that is large: fresh memory for it costs the kernel more than the copy. It lies in one
# buffer, which the next run overwrites.
_OVERWRITTEN: Final = frozenset({"log_probs"})
_MOST_PREPARED: Final = 256  # shapes of batches a graph and lane
_CUDA_OPTIONS: Final = {
    "arena_extend_strategy": "kSameAsRequested",  # batches vary in shape; doubling would waste device memory
    "use_tf32": "0",  # ten bits of mantissa would break parity with what was exported
}


class RunnerError(Exception):
    """A bundle cannot be run here, or a run was asked for wrongly; says expected and got."""


class ProviderUnavailable(RunnerError):
    """CUDA was insisted on and is not there, whatever the bundle."""


@dataclass(frozen=True)
class RunnerConfig:
    """How a bundle is run.

    Args:
        provider: auto takes CUDA where it works and the CPU elsewhere; cuda and cpu insist.
        threads: Intra-op threads of ONNX Runtime; 0: one a physical core.
        num_slots: Rows of the state pool, the initial state and scratch included.
        num_memory_rows: Rows of the attention memory, the zero row and scratch included; unused without memories.
    """

    provider: Provider = "auto"
    threads: int = 1
    num_slots: int = 1024
    num_memory_rows: int = 32768

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("num_slots", 3), ("num_memory_rows", 16)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


def open_runner(folder: Path, manifest: Manifest, config: RunnerConfig) -> "Runner":
    """Open a bundle on the provider that the config asks for.

    Raises:
        ProviderUnavailable: CUDA was insisted on and does not work.
        RunnerError: The graphs are not those of the manifest or cannot be run in place.
        Exception: What ONNX Runtime raises for a file that is no model (its types are many).
    """
    if config.provider == "cpu":
        return Runner(folder, manifest, config, CPU)
    if CUDA not in ort.get_available_providers():
        if config.provider == "cuda":
            available = ", ".join(ort.get_available_providers())
            raise ProviderUnavailable(f"provider cuda: expected {CUDA}, got an ONNX Runtime with {available} only")
        return Runner(folder, manifest, config, CPU)
    try:
        return Runner(folder, manifest, config, CUDA)
    except Exception as error:  # a broken driver shows as one of many types
        if config.provider == "cuda":
            raise
        warning = f"runs on the CPU: {CUDA} is installed but does not work: {first_line(error)}"
        return Runner(folder, manifest, config, CPU, (warning,))


class Runner:
    """Runs the graphs of one bundle on one provider. Thread-safe as the module docstring says.

    Args:
        folder: The bundle.
        manifest: Its verified manifest.
        config: Pool sizes and threads.
        provider: The ONNX Runtime provider to run on.
        warnings: What the operator should know already.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, config: RunnerConfig, provider: str, warnings: tuple[str, ...] = ()
    ) -> None:
        self.manifest = manifest
        self.provider = provider
        self.num_slots = config.num_slots
        self.num_memory_rows = config.num_memory_rows if manifest.memories else 0
        # Sessions first: they tell whether the provider works at all.
        sessions = {
            kind: _open_session(folder / spec.file, provider, config.threads) for kind, spec in manifest.graphs.items()
        }
        self._pools: dict[str, ort.OrtValue] = {}
        # On the CPU a pool is a NumPy array, which ONNX Runtime uses where it lies: its rows can be indexed.
        self._arrays: dict[str, Array] = {}
        for spec, rows in _pool_sizes(manifest, config):
            assert spec.pool_input is not None
            zeros = np.zeros((max(rows, probe.NUM_ROWS), *spec.shape), dtype=storage(spec.dtype))
            value = _value(zeros, spec.dtype, provider)
            self._pools[spec.pool_input] = value
            if provider == CPU and value.data_ptr() == zeros.ctypes.data:
                self._arrays[spec.pool_input] = zeros
        self._state_pools = {s.name: s.pool_input for s in manifest.states if s.pool_input is not None}
        self._memory_pools = {m.name: m.pool_input for m in manifest.memories}
        self._graphs = {
            kind: _Graph(sessions[kind], spec, manifest, self._pools) for kind, spec in manifest.graphs.items()
        }
        self.warnings = warnings
        if provider != CPU:
            self.warnings += tuple(
                f"graph {kind}: {len(nodes)} nodes run on the CPU ({', '.join(nodes[:4])})"
                for kind, session in sessions.items()
                if (nodes := working_nodes(session.get_provider_graph_assignment_info(), CPU))
            )
        if initial := load_initial_states(folder, manifest):
            self.write_rows([INITIAL_ROW], {name: array[None] for name, array in initial.items()})
        for kind, graph in self._graphs.items():
            self._prove_in_place(kind, graph)

    @property
    def state_bytes(self) -> int:
        """Bytes of state that one slot keeps."""
        return sum(
            int(np.prod(state.shape)) * np.dtype(storage(state.dtype)).itemsize
            for state in self.manifest.states
            if state.pool_input is not None
        )

    def run(
        self, kind: GraphKind, inputs: Mapping[str, Array], outputs: Sequence[str], lane: int = 0
    ) -> dict[str, Array]:
        """Run a graph once, updating the pools that it updates.

        Args:
            kind: Which graph.
            inputs: Every input but pools; initial states may be left out and are then zeros.
            outputs: Those wanted; the others are not copied out of the runtime.
            lane: Which of several runs at a time this is; at most one thread may be in a lane.

        Returns:
            The wanted outputs by name; those of graphs that update pools are good until the next run in the lane.

        Raises:
            RunnerError: The inputs are not those of the graph.
        """
        return self._graphs[kind].run(inputs, tuple(outputs), lane)

    @contextlib.contextmanager
    def shrinking(self) -> Iterator[None]:
        """In the block, each run gives back what it and those before it took; for runs that nobody waits for."""
        options = scratch.shrinking() if self.provider == CPU else None
        for graph in self._graphs.values():
            graph.options = options
        try:
            yield
        finally:
            for graph in self._graphs.values():
                graph.options = None

    def close(self) -> None:
        """Let go of graphs and pools, whoever still holds this object; a run under way is not disturbed."""
        self._graphs.clear()
        self._pools.clear()
        self._arrays.clear()

    def read_rows(self, rows: Sequence[int]) -> dict[str, Array]:
        """Copy rows of the state pools out.

        Returns:
            By state name, (len(rows), *shape).
        """
        return self._read(self._state_pools, rows)

    def write_rows(self, rows: Sequence[int], tensors: Mapping[str, Array]) -> None:
        """Set rows of the state pools.

        Args:
            rows: Which, each once.
            tensors: By state name, (len(rows), *shape); states that are left out keep what they have.
        """
        self._write(self._state_pools, rows, tensors)

    def read_memory(self, rows: Sequence[int]) -> dict[str, Array]:
        """Copy rows of the attention memory out.

        Returns:
            By memory name, (len(rows), *shape).
        """
        return self._read(self._memory_pools, rows)

    def write_memory(self, rows: Sequence[int], tensors: Mapping[str, Array]) -> None:
        """Set rows of the attention memory; as `write_rows`."""
        self._write(self._memory_pools, rows, tensors)

    def _read(self, pools: Mapping[str, str], rows: Sequence[int]) -> dict[str, Array]:
        index = np.asarray(rows, dtype=np.int64)
        return {name: self._pool_array(pool)[index] for name, pool in pools.items()}

    def _write(self, pools: Mapping[str, str], rows: Sequence[int], tensors: Mapping[str, Array]) -> None:
        index = np.asarray(rows, dtype=np.int64)
        for name, values in tensors.items():
            array = self._pool_array(pools[name])
            array[index] = values
            if pools[name] not in self._arrays:
                self._pools[pools[name]].update_inplace(array)

    def _pool_array(self, pool: str) -> Array:
        """The pool itself where it lies in host memory, a copy elsewhere."""
        array = self._arrays.get(pool)
        return np.array(self._pools[pool].numpy()) if array is None else array

    def read_pool(self, name: str) -> Array:
        """Copy a pool out, for proofs and tests: slow on a GPU."""
        return self._pool_array(name).copy()

    def _write_pool(self, name: str, value: Array) -> None:
        if name in self._arrays:
            self._arrays[name][...] = value
        else:
            self._pools[name].update_inplace(value)

    def _prove_in_place(self, kind: GraphKind, graph: "_Graph") -> None:
        try:
            if self.manifest.imported is None:
                probe.probe_graph(graph, self.read_pool, self._write_pool)
            else:
                probe_imported(graph, self.manifest, self.read_pool, self._write_pool)
        except probe.ProbeFailure as failure:
            raise RunnerError(f"graph {kind} on {self.provider}: {failure}") from None


def _pool_sizes(manifest: Manifest, config: RunnerConfig) -> list[tuple[StateSpec | MemorySpec, int]]:
    states: list[tuple[StateSpec | MemorySpec, int]] = [
        (state, config.num_slots) for state in manifest.states if state.pool_input is not None
    ]
    return states + [(memory, config.num_memory_rows) for memory in manifest.memories]


class _Prepared(NamedTuple):
    """A binding with buffers of its own, for batches of one shape."""

    binding: ort.IOBinding
    inputs: dict[str, Array]
    outputs: dict[str, Array]


class _Graph:
    """One session with its bindings: pools bound once, one reusable binding for each set of wanted outputs.

    Graphs that update pools run thousands of times a second in few shapes; for those, buffers are bound once as well.
    """

    def __init__(
        self, session: ort.InferenceSession, spec: GraphSpec, manifest: Manifest, pools: Mapping[str, ort.OrtValue]
    ) -> None:
        _check_signature(spec, session)
        self.spec = spec
        self.options: ort.RunOptions | None = None  # of its runs
        self._session = session
        self._pools = pools
        given = {tensor.name for tensor in spec.inputs}
        returned = {tensor.name for tensor in spec.outputs}
        pairs: dict[str | None, str | None] = {state.pool_input: state.pool_output for state in manifest.states}
        pairs |= {memory.pool_input: memory.pool_output for memory in manifest.memories}
        self._read = [name for name in pairs if name is not None and name in given]
        self.updated = {name: out for name in self._read if (out := pairs[name]) is not None and out in returned}
        self._dtypes = {tensor.name: tensor.dtype for tensor in spec.inputs}
        self._fed = [tensor for tensor in spec.inputs if tensor.name not in pools]
        self._outputs = {tensor.name: tensor for tensor in spec.outputs}
        # Initial states: inputs of the sequence graph that are zeros unless given.
        self._initial = {s.sequence_input for s in manifest.states if s.sequence_input is not None}
        self._bindings: dict[tuple[int, tuple[str, ...]], ort.IOBinding] = {}
        self._buffers: dict[tuple[int, str], Array] = {}
        # By lane, so that no two threads share one; the one used last stands last.
        self._prepared: dict[int, OrderedDict[tuple[object, ...], _Prepared]] = {}
        self._zeros: dict[str, Array] = {}  # by dtype, as many as were needed at a time
        self._has_text = any(tensor.dtype == "string" for tensor in (*self._fed, *spec.outputs))
        known = {d for tensor in self._fed for d in tensor.shape} | {d for t in spec.outputs for d in t.shape[:1]}
        # Outputs whose sizes only the run tells: ONNX Runtime allocates them.
        self._unsized = {
            tensor.name for tensor in spec.outputs if any(isinstance(d, str) and d not in known for d in tensor.shape)
        }

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], lane: int = 0) -> dict[str, Array]:
        if self._has_text:
            return self._run_text(inputs, outputs)
        if not self.updated or not _OVERWRITTEN.isdisjoint(outputs) or not self._unsized.isdisjoint(outputs):
            return self._run_anew(inputs, outputs, lane)
        shapes = self._prepared.setdefault(lane, OrderedDict())
        key = (outputs, *[(name, array.shape, array.dtype) for name, array in inputs.items()])
        prepared = shapes.get(key)
        if prepared is None:
            # Running it proves that the inputs are right; the next batch of the same shape has only to fill them in.
            results = self._run_anew(inputs, outputs, lane)
            while len(shapes) >= _MOST_PREPARED:
                shapes.popitem(last=False)
            shapes[key] = self._prepare(inputs, results, outputs)
            return results
        shapes.move_to_end(key)
        for name, array in inputs.items():
            prepared.inputs[name][...] = array
        self._session.run_with_iobinding(prepared.binding, self.options)
        return prepared.outputs

    def _prepare(
        self, inputs: Mapping[str, Array], results: Mapping[str, Array], outputs: tuple[str, ...]
    ) -> "_Prepared":
        """Bind buffers for batches of the shapes of one that ran."""
        binding = self._bind(outputs)
        own = {name: np.ascontiguousarray(array).copy() for name, array in inputs.items()}
        given = {name: np.empty_like(array) for name, array in results.items()}
        for name, array in own.items():
            self._feed(binding, name, array)
        for name, array in given.items():
            binding.bind_output(name, "cpu", 0, _element(self._outputs[name].dtype), array.shape, array.ctypes.data)
        return _Prepared(binding, own, given)

    def _feed(self, binding: ort.IOBinding, name: str, array: Array) -> None:
        """Bind an input to an array, contiguous, which must outlive the run."""
        if self._dtypes[name] == "bfloat16":
            binding.bind_input(name, "cpu", 0, BFLOAT16, array.shape, array.ctypes.data)
        else:
            binding.bind_cpu_input(name, array)

    def _run_text(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run a graph that has strings, which cannot be bound; they come and go as bytes."""
        fed = {name: _decoded(array) if array.dtype == object else array for name, array in inputs.items()}
        results = self._session.run(outputs, fed)
        return {
            name: _encoded(array) if array.dtype.kind in "OU" else array
            for name, array in zip(outputs, results, strict=True)
        }

    def _run_anew(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], lane: int) -> dict[str, Array]:
        binding = self._bindings.get((lane, outputs))
        if binding is None:
            binding = self._bindings[lane, outputs] = self._bind(outputs)
        if unknown := inputs.keys() - {tensor.name for tensor in self._fed}:
            raise RunnerError(f"inputs: expected {[t.name for t in self._fed]}, got also {sorted(unknown)}")
        sizes: dict[str, int] = {}
        held: list[Array] = []  # until it has run
        for tensor in self._fed:
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
            held.append(np.require(array, requirements=("C_CONTIGUOUS", "ALIGNED")))  # what came over a wire may not be
            self._feed(binding, tensor.name, held[-1].reshape(array.shape))
        for tensor in self._fed:
            if tensor.name not in inputs:
                if tensor.name not in self._initial:
                    raise RunnerError(f"inputs: expected {tensor.name}, got {sorted(inputs)}")
                shape = [sizes[d] if isinstance(d, str) else d for d in tensor.shape]
                binding.bind_cpu_input(tensor.name, self._zero(tensor.dtype, math.prod(shape)).reshape(shape))
        results: dict[str, Array] = {}
        for name in outputs:
            tensor = self._outputs[name]
            if name in self._unsized:
                binding.bind_output(name, "cpu")
                continue
            shape = [sizes[d] if isinstance(d, str) else d for d in tensor.shape]
            result = results[name] = self._space(lane, name, shape, tensor.dtype)
            binding.bind_output(name, "cpu", 0, _element(tensor.dtype), shape, result.ctypes.data)
        self._session.run_with_iobinding(binding, self.options)
        if not self._unsized.isdisjoint(outputs):
            values = dict(zip((*self.updated.values(), *outputs), binding.get_outputs(), strict=True))
            results |= {name: _copied(values[name]) for name in outputs if name in self._unsized}
        return results

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
        values = self._session.run_with_ort_values(names, feeds)
        return {name: _copied(value) for name, value in zip(self.updated, values, strict=True)}

    def _bind(self, outputs: tuple[str, ...]) -> ort.IOBinding:
        if unknown := set(outputs) - self._outputs.keys() | set(outputs) & set(self.updated.values()):
            raise RunnerError(f"outputs: expected some of {list(self._outputs)} but pools, got {sorted(unknown)}")
        binding = self._session.io_binding()
        for name in self._read:
            binding.bind_ortvalue_input(name, self._pools[name])
        for name, out in self.updated.items():
            binding.bind_ortvalue_output(out, self._pools[name])
        return binding


def _open_session(path: Path, provider: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A thread that spins between batches takes its core from the gRPC side and hurts everybody's p99.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == CPU:
        scratch.share(options)
        return ort.InferenceSession(path, options, providers=[CPU])
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    ort.preload_dlls()
    session = ort.InferenceSession(path, options, providers=[(provider, _CUDA_OPTIONS), CPU])
    if session.get_providers()[0] != provider:  # ONNX Runtime falls back in silence
        raise ProviderUnavailable(f"provider cuda: expected a working {provider}, got {session.get_providers()}")
    return session


def _check_signature(spec: GraphSpec, session: ort.InferenceSession) -> None:
    for what, declared, found in (
        ("inputs", spec.inputs, session.get_inputs()),
        ("outputs", spec.outputs, session.get_outputs()),
    ):
        expected, got = sorted(t.name for t in declared), sorted(t.name for t in found)
        if expected != got:
            raise RunnerError(f"{spec.file}: {what}: expected {expected} as in the manifest, got {got}")


def _value(array: Array, dtype: DType, provider: str) -> ort.OrtValue:
    """An OrtValue of an array: on the CPU the array itself."""
    if dtype == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array, _device(provider), 0)


def _element(dtype: DType) -> Any:
    """How a binding is told the type of an array."""
    return BFLOAT16 if dtype == "bfloat16" else np.dtype(storage(dtype)).type


def _copied(value: ort.OrtValue) -> Array:
    """A copy of an output that ONNX Runtime allocated."""
    if value.element_type() != BFLOAT16:
        return np.array(value.numpy())
    size = math.prod(value.shape())
    bits = (ctypes.c_uint16 * size).from_address(value.data_ptr()) if size else ()
    return np.array(bits, dtype=np.uint16).reshape(value.shape())


def _decoded(array: Array) -> Array:
    return np.array([element.decode("utf-8") for element in array.flat], dtype=object).reshape(array.shape)


def _encoded(array: Array) -> Array:
    flat = [str(element).encode("utf-8") for element in array.flat]
    encoded = np.empty(len(flat), dtype=object)
    encoded[:] = flat
    return encoded.reshape(array.shape)


def _device(provider: str) -> str:
    return "cuda" if provider == CUDA else "cpu"


def first_line(error: BaseException) -> str:
    """What an operator reads of an error of ONNX Runtime, which may run over many lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
