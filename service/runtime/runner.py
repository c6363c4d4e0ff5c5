"""ONNX Runtime, and nothing else: arrays in, arrays out, the state of every session kept in place.

A runner opens the graphs of one bundle and owns its state and memory pools. Each pool is bound as a graph's input and
as its output, the same buffer, so that a step rewrites the rows it was told to write and copies nothing else. That
ONNX Runtime really does so is proved on the actual buffers when the runner opens (see `service.runtime.probe`). On a
GPU the pools lie there, and so do inputs and outputs of a step (see `service.runtime.device`).

Several threads may run graphs at the same time, each in its own lane, as long as no row that one writes is read or
written by another; scratch rows, which nobody reads, excepted.

Of the service, only this package imports onnxruntime.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import GraphKind, Manifest, storage
from service.runtime import scratch
from service.runtime.device.cuda import CudaMemory
from service.runtime.device.gate import GATE
from service.runtime.device.graph import DeviceGraph
from service.runtime.device.loading import OnDevice
from service.runtime.device.memory import DeviceMemory
from service.runtime.errors import RunEnded
from service.runtime.graph import Graph
from service.runtime.nodes import read_nodes
from service.runtime.options import run_options
from service.runtime.placement import place
from service.runtime.pools import HostPools, Pools, pool_sizes, write_initial_states
from service.runtime.proof import prove
from service.runtime.providers import CPU, Provider, open_session

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]


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
        max_rows: Of a batch that will be run, up to which steps are captured; 0: as many as there are slots.
    """

    provider: Provider = "auto"
    threads: int = 1
    num_slots: int = 1024
    num_memory_rows: int = 32768
    tf32: bool = False
    device_id: int = 0
    cuda_graphs: bool = True
    max_rows: int = 0

    def __post_init__(self) -> None:
        least_of = {"threads": 0, "num_slots": 3, "num_memory_rows": 16, "device_id": 0, "max_rows": 0}
        for name, least in least_of.items():
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
        memory: Of the device that the provider runs on; None: that of the GPU, or host memory for the CPU.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        config: RunnerConfig,
        provider: str,
        warnings: tuple[str, ...] = (),
        memory: DeviceMemory | None = None,
    ) -> None:
        self._device: OnDevice | None = None
        self.manifest = manifest
        self.provider = provider
        self.num_slots = config.num_slots
        self.num_memory_rows = config.num_memory_rows if manifest.memories else 0
        self._state_pools = {s.name: s.pool_input for s in manifest.states if s.pool_input is not None}
        self._memory_pools = {m.name: m.pool_input for m in manifest.memories}
        self._options: dict[int, ort.RunOptions] = {}  # by lane
        self._graphs: dict[GraphKind, Graph | DeviceGraph]
        self._pools: Pools
        sizes = pool_sizes(manifest, config.num_slots, config.num_memory_rows)

        def open_graph(kind: GraphKind, captured: bool) -> ort.InferenceSession:
            return open_session(
                folder / manifest.graphs[kind].file,
                provider,
                config.threads,
                device_id=config.device_id,
                cuda_graphs=captured,
                tf32=config.tf32,
            )

        if memory is None and provider == CPU:
            # Sessions first: they tell whether the provider works at all.
            sessions = {kind: open_graph(kind, False) for kind in manifest.graphs}
            self._pools = HostPools(sizes)
            self._graphs = {
                kind: Graph(sessions[kind], spec, manifest, self._pools) for kind, spec in manifest.graphs.items()
            }
            write_initial_states(folder, manifest, self._pools)
            for kind, graph in self._graphs.items():
                prove(f"graph {kind} on {provider}", graph, manifest, self._pools)
        else:

            def open_memory() -> DeviceMemory:
                return memory or CudaMemory(config.device_id)

            most_rows = (config.max_rows or config.num_slots) if config.cuda_graphs else 0
            self._device = OnDevice(folder, manifest, provider, sizes, open_graph, open_memory, most_rows)
            sessions, self._pools, self._graphs = self._device.sessions, self._device.pools, {**self._device.graphs}
            warnings += self._device.warnings
        self._new_options: Callable[[], ort.RunOptions] = run_options
        self.warnings = warnings
        if provider != CPU:
            for kind, spec in manifest.graphs.items():
                assignment = sessions[kind].get_provider_graph_assignment_info()
                placement = place(assignment, read_nodes(folder / spec.file), spec, manifest, CPU)
                if config.provider == "cuda":
                    placement.insist(kind)
                self.warnings += tuple(placement.warnings(kind))

    @property
    def manifest(self) -> Manifest:
        """Of the bundle; it may be set to one that allows fewer rows in a run, when nothing runs."""
        return self._manifest

    @manifest.setter
    def manifest(self, manifest: Manifest) -> None:
        self._manifest = manifest
        if self._device and manifest.imported is not None and manifest.imported.max_rows is not None:
            self._device.stop_padding()

    @property
    def in_place(self) -> bool:
        """Whether runs update the pools where they lie; otherwise each copies them."""
        return self._pools.in_place

    @property
    def captured(self) -> Mapping[GraphKind, Sequence[int]]:
        """By graph, the rows of the batches that are replayed as CUDA graphs on some thread."""
        return self._device.captured if self._device else {}

    def warm_up(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Capture all that the calling thread can replay; otherwise a size is captured when it first runs there.

        Args:
            stop: Asked before each capture: whether to leave the rest out.
        """
        if self._device:
            self._device.warm_up(stop)

    @property
    def uncaptured(self) -> str:
        """Why no batch is replayed; empty if some are."""
        return self._device.uncaptured if self._device else "it runs on the CPU"

    def memory_report(self) -> Mapping[str, int]:
        """Bytes on a device and locked for it, by what for; nothing where there is none."""
        return self._device.sizes if self._device else {}

    @property
    def indexes_rows(self) -> bool:
        """Whether rows are read and written where they lie, and not by way of the whole pool."""
        return self._pools.indexes_rows

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
            self._new_options = run_options
            self._options.clear()

    def close(self) -> None:
        """Let go of graphs and pools, whoever still holds this object; a run under way is not disturbed."""
        with GATE.shared() if self._device else contextlib.nullcontext():
            self._graphs = {}
            self._pools, self._device = HostPools(()), None

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

    def read_pool(self, name: str) -> Array:
        """Copy a pool out, for proofs and tests: slow on a GPU."""
        return self._pools.whole(name)

    def _read(self, pools: Mapping[str, str], rows: Sequence[int]) -> dict[str, Array]:
        return self._pools.read(pools, rows)

    def _write(self, pools: Mapping[str, str], rows: Sequence[int], tensors: Mapping[str, Array]) -> None:
        self._pools.write(rows, {pools[name]: values for name, values in tensors.items()})
