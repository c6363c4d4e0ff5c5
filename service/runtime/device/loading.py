"""A bundle brought onto a device: its pools and graphs, proved there, its steps captured where they can be."""

import logging
import os
import weakref
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Final

from export.manifest import GraphKind, Manifest
from service.runtime.device.capture import Captures, sizes_to_capture, why_not
from service.runtime.device.gate import GATE
from service.runtime.device.graph import DeviceGraph
from service.runtime.device.memory import DeviceMemory
from service.runtime.device.pools import DevicePools
from service.runtime.device.resident import Resident, can_reside
from service.runtime.device.staging import Staging
from service.runtime.errors import first_line
from service.runtime.graph import Graph
from service.runtime.options import run_options
from service.runtime.pools import PoolSize, write_initial_states
from service.runtime.probe import ProbeFailure
from service.runtime.proof import prove

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

_STEP: Final[GraphKind] = "step"
_TURNS: Final = 2  # runs of a proof
_log = logging.getLogger(__name__)
Open = Callable[[GraphKind, bool], ort.InferenceSession]


class OnDevice:
    """See the module docstring.

    Args:
        folder: The bundle.
        manifest: Of it.
        provider: That of ONNX Runtime which the sessions run on.
        sizes: Of its pools.
        open_graph: Opens the session of a graph; the flag says whether its runs are to be captured.
        open_memory: Gives the memory of the device; called when a session has shown that the device works.
        most_rows: Of a batch of steps that is captured where it can be; 0: none is.

    Attributes:
        graphs: Proved.
        pools: What they are bound to.
        warnings: What the operator should know.

    Raises:
        ProbeFailure: A graph reads or writes rows that it should not.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        provider: str,
        sizes: list[PoolSize],
        open_graph: Open,
        open_memory: Callable[[], DeviceMemory],
        most_rows: int,
    ) -> None:
        self._manifest, self._provider = manifest, provider
        self._open = open_graph
        self._captures: Captures | None = None
        self._most_rows = most_rows
        self.warnings: tuple[str, ...] = ()
        self._reason = ""
        wants = self._wants(most_rows)
        self.sessions = {kind: self._session(kind, wants and kind == _STEP) for kind in manifest.graphs}
        with GATE.shared():
            self._memory = open_memory()
        self.pools = DevicePools(sizes, self._memory)
        self._lanes: dict[int, Staging] = {}
        self.graphs = {kind: self._graph(kind) for kind in manifest.graphs}
        write_initial_states(folder, manifest, self.pools)
        self._prove_all()
        if wants and not self._reason:
            self._capture()
        taken = ", ".join(f"{what} {num_bytes / 2**20:.1f} MiB" for what, num_bytes in self.sizes.items())
        _log.info("model %s: %s; %s", manifest.name, taken, self._reason or "steps are captured")

    @property
    def uncaptured(self) -> str:
        """Why no steps are captured, or no more; empty if all are, by and by."""
        return self._reason or (self._captures.failed if self._captures else "")

    @property
    def captured(self) -> dict[GraphKind, list[int]]:
        """Rows of the batches that some thread replays, by graph."""
        return {_STEP: sorted(self._captures.captured)} if self._captures else {}

    def warm_up(self, stop: Callable[[], bool]) -> None:
        """Capture on the calling thread all that it will replay, unless told to stop before."""
        if self._captures and (resident := self.graphs[_STEP].resident):
            sizes = reversed(self._captures.sizes)  # the largest first: the others lie in its buffers
            resident.warm_up(takewhile(lambda _: not stop(), sizes))

    def stop_padding(self) -> None:
        """From now on run batches as large as they are: how many rows they have is not all one."""
        for graph in self.graphs.values():
            if graph.resident is not None:
                graph.resident.stop_padding()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes that this takes besides weights and what ONNX Runtime computes in, by what for."""
        lanes = list(self._lanes.values())
        return {
            "pools": self.pools.num_bytes,
            "inputs and outputs": sum(lane.device_bytes for lane in lanes),
            "page-locked host memory": self.pools.host_bytes + sum(lane.host_bytes for lane in lanes),
            "captured runs": self._captures.num_bytes if self._captures else 0,
        }

    def _wants(self, most_rows: int) -> bool:
        """Whether steps are to be captured, as far as can be told before anything is opened."""
        spec = self._manifest.graphs.get(_STEP)
        if not most_rows:
            self._reason = "switched off"
        elif spec is None:
            self._reason = "there is no step graph"
        else:
            self._reason = why_not(spec, self._manifest)
        return not self._reason

    def _session(self, kind: GraphKind, captured: bool) -> ort.InferenceSession:
        with GATE.shared():
            if not captured:
                return self._opened(kind, False)
            try:
                return self._opened(kind, True)
            except Exception as error:  # of many types, one of which is that this graph cannot be captured
                session = self._opened(kind, False)
                self._do_without(first_line(error))
                return session

    def _opened(self, kind: GraphKind, captured: bool) -> ort.InferenceSession:
        """Open a session whose memory is given back inside the gate, whoever lets go of it, wherever."""
        session = self._open(kind, captured)
        weakref.finalize(session, GATE.later, [session._sess].clear).atexit = False  # the one that Python's wraps
        return session

    def _do_without(self, reason: str) -> None:
        self._reason = reason
        self.warnings += (f"graph {_STEP}: runs without CUDA graphs: {reason}",)

    def _graph(self, kind: GraphKind) -> DeviceGraph:
        options = run_options()
        session = self.sessions[kind]
        graph = Graph(session, self._manifest.graphs[kind], self._manifest, self.pools, options)
        resident = (
            Resident(session, graph, self._manifest, self.pools, self._memory, self._lanes)
            if can_reside(graph)
            else None
        )
        return DeviceGraph(graph, resident, self.pools, options)

    def _prove_all(self) -> None:
        try:
            for kind in self.graphs:
                self._prove(kind)
        except ProbeFailure as failure:
            _log.warning("model %s: %s", self._manifest.name, failure)
            self.pools.double()
            for kind in self.graphs:
                self._prove(kind)
            self.warnings += (f"two of each pool, one copied to the other at each run: {failure}",)
            self._reason = self._reason or "pools change places"

    def _prove(self, kind: GraphKind) -> None:
        prove(f"graph {kind} on {self._provider}", self.graphs[kind], self._manifest, self.pools, _TURNS)

    def _capture(self) -> None:
        """Have steps captured, and prove what is replayed; if anything goes wrong, open the graph again without."""
        resident = self.graphs[_STEP].resident
        if not self._memory.captures:
            self._reason = "the device knows no such thing"
        elif resident is None:
            self._reason = "its tensors cannot stay on the device"
        elif resident.reads_host:
            self._reason = "it has inputs that ONNX Runtime wants in host memory"
        if resident is None or self._reason:
            return
        spec = self._manifest.graphs[_STEP]
        sizes = sizes_to_capture(resident.pads, self._most_rows)
        resident.captures = captures = Captures(spec, self._manifest, sizes)
        try:
            resident.warm_up(sizes[:1])
            self._prove(_STEP)
        except Exception as error:  # of many types
            self._do_without(first_line(error))
            self.sessions[_STEP] = self._session(_STEP, False)
            self.graphs[_STEP] = self._graph(_STEP)
            self._prove(_STEP)
        else:
            self._captures = captures
            captures.proved = True
