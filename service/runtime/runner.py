"""ONNX Runtime, and nothing else: arrays in, arrays out, the state of every session kept in place.

A runner opens the graphs of one bundle and owns its state and memory pools. Each pool is bound as a graph's input and
as its output, the same buffer, so that a step rewrites the rows it was told to write and copies nothing else. That
ONNX Runtime really does so is proved on the actual buffers when the runner opens (see `service.runtime.probe`).

Several threads may run graphs at the same time, each in its own lane, as long as no row that one writes is read or
written by another; scratch rows, which nobody reads, excepted.

Of the service, only this package imports onnxruntime.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.bundle import load_initial_states
from export.manifest import GraphKind, Manifest, MemorySpec, StateSpec, storage
from service.runtime import probe, scratch
from service.runtime.errors import RunEnded, RunnerError
from service.runtime.graph import Graph
from service.runtime.placement import working_nodes
from service.runtime.probe_imported import probe_imported
from service.runtime.providers import CPU, Provider, open_session
from service.runtime.values import make_value

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
INITIAL_ROW: Final = 0  # of the state pools


@dataclass(frozen=True)
class RunnerConfig:
    """How a bundle is run.

    Args:
        provider: auto takes CUDA where it works and the CPU elsewhere; cuda and cpu insist.
        threads: Intra-op threads of ONNX Runtime; 0: one a physical core.
        num_slots: Rows of the state pool, the initial state and scratch included.
        num_memory_rows: Rows of the attention memory, the zero row and scratch included; unused without memories.
        tf32: Whether a GPU may round factors of products to ten bits of mantissa, which is quicker.
        device_id: Which GPU, counted from 0.
        cuda_graphs: Whether steps are captured as CUDA graphs where they can be.
    """

    provider: Provider = "auto"
    threads: int = 1
    num_slots: int = 1024
    num_memory_rows: int = 32768
    tf32: bool = False
    device_id: int = 0
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("num_slots", 3), ("num_memory_rows", 16), ("device_id", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


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
            kind: open_session(folder / spec.file, provider, config.threads, tf32=config.tf32)
            for kind, spec in manifest.graphs.items()
        }
        self._new_options: Callable[[], ort.RunOptions] = ort.RunOptions
        self._options: dict[int, ort.RunOptions] = {}  # by lane
        self._pools: dict[str, ort.OrtValue] = {}
        # On the CPU a pool is a NumPy array, which ONNX Runtime uses where it lies: its rows can be indexed.
        self._arrays: dict[str, Array] = {}
        for spec, rows in _pool_sizes(manifest, config):
            assert spec.pool_input is not None
            zeros = np.zeros((max(rows, probe.NUM_ROWS), *spec.shape), dtype=storage(spec.dtype))
            value = make_value(zeros, spec.dtype, provider)
            self._pools[spec.pool_input] = value
            if provider == CPU and value.data_ptr() == zeros.ctypes.data:
                self._arrays[spec.pool_input] = zeros
        self._state_pools = {s.name: s.pool_input for s in manifest.states if s.pool_input is not None}
        self._memory_pools = {m.name: m.pool_input for m in manifest.memories}
        self._graphs = {
            kind: Graph(sessions[kind], spec, manifest, self._pools) for kind, spec in manifest.graphs.items()
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
    def indexes_rows(self) -> bool:
        """Whether rows are read and written where they lie, and not by way of the whole pool."""
        return len(self._arrays) == len(self._pools)

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
            RunEnded: `end_run` was called meanwhile.
        """
        options = self._options.get(lane)
        if options is None or options.terminate:
            options = self._options[lane] = self._new_options()
        try:
            return self._graphs[kind].run(inputs, tuple(outputs), lane, options)
        except Exception:
            if options.terminate:
                raise RunEnded("the run was ended before it came to an end by itself") from None
            raise

    def end_run(self, lane: int) -> None:
        """End the run that is under way in a lane, before its next operator; safe from any thread.

        Whoever calls it knows that there is one: the run after it is not ended.
        """
        if options := self._options.get(lane):
            options.terminate = True

    @contextlib.contextmanager
    def shrinking(self) -> Iterator[None]:
        """In the block, each run gives back what it and those before it took; for runs that nobody waits for."""
        if self.provider == CPU:
            self._new_options = scratch.shrinking
        self._options.clear()
        try:
            yield
        finally:
            self._new_options = ort.RunOptions
            self._options.clear()

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

    def _prove_in_place(self, kind: GraphKind, graph: Graph) -> None:
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
