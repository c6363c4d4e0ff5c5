"""Steps that are launched as a whole: CUDA graphs, one for each size that batches are padded to.

A captured run does the same to the same addresses each time; what lies there is the batch. A capture runs the graph
several times, so it is made on the scratch row. ONNX Runtime keeps what it captured for the thread that ran it, and on
another thread would capture anew, there and then, on whatever rows it is given: so each thread captures for itself,
when it first runs a batch of a size or when it is told to get ready.

Source: ONNX Runtime, cuda_execution_provider.cc, `PerThreadContext`, https://github.com/microsoft/onnxruntime
"""

import logging
import os
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import GraphSpec, Manifest, storage
from service.runtime.device.layout import buckets
from service.runtime.likely import likely_batch
from service.runtime.pools import INITIAL_ROW

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
LANE: Final = 0  # the only one whose runs are captured
MOST_ROWS: Final = 1024  # of a batch that is captured: beyond it the arithmetic takes longer than the launches
SCRATCH_ROW: Final = 1  # of the state pools
_log = logging.getLogger(__name__)


class Captures:
    """What is captured of the runs of one graph, and what is to be.

    Args:
        spec: Of the graph.
        manifest: Of the bundle.
        sizes: Rows of the batches that are to be captured.

    Attributes:
        sizes: The same, in order.
        captured: Those that some thread has captured.
        num_bytes: Of the device, that captures took.
        proved: Whether it has been seen that replays do what they should.
        failed: Why no more are captured; empty: nothing went wrong.
    """

    def __init__(self, spec: GraphSpec, manifest: Manifest, sizes: list[int]) -> None:
        self.sizes = sizes
        self.captured: set[int] = set()
        self.num_bytes = 0
        self._spec, self._manifest = spec, manifest
        self._threads = threading.local()
        self._postponed: set[int] = set()
        self.proved = False
        self.failed = ""

    def options(self, rows: int) -> ort.RunOptions | None:
        """Options with which the calling thread replays a batch of so many rows; None: it has not captured it."""
        options: ort.RunOptions | None = self._here.get(rows)
        return options

    def wants(self, rows: int) -> bool:
        """Whether the calling thread should capture a batch of so many rows before it runs one."""
        return rows not in self._here and rows in self.sizes and not self.failed

    def batch(self, rows: int) -> dict[str, Array]:
        """Make a batch that reads the initial state and writes to scratch."""
        return harmless(self._spec, self._manifest, rows)

    def add(self, rows: int, options: ort.RunOptions, num_bytes: int) -> None:
        """Note what the calling thread has captured, which took so many bytes of the device."""
        self._here[rows] = options
        self.captured.add(rows)
        self.num_bytes += num_bytes

    def give_up(self, reason: str) -> None:
        """Capture nothing more; what is captured stays."""
        self.failed = reason
        _log.warning("model %s: no more steps are captured: %s", self._manifest.name, reason)

    def postpone(self, rows: int, reason: str) -> None:
        """Note that a batch of so many rows could not be captured yet; the next run of one tries again."""
        if rows not in self._postponed:
            self._postponed.add(rows)
            _log.info("model %s: steps of %d rows are not captured yet: %s", self._manifest.name, rows, reason)

    @property
    def _here(self) -> dict[int, ort.RunOptions]:
        """By rows, what the calling thread has captured."""
        if not hasattr(self._threads, "options"):
            self._threads.options = {}
        here: dict[int, ort.RunOptions] = self._threads.options
        return here


def sizes_to_capture(pads: bool, most_rows: int) -> list[int]:
    """Rows of the batches of a graph that are worth a capture.

    Args:
        pads: Whether its batches are padded.
        most_rows: Of a batch that can be.
    """
    return buckets(min(most_rows, MOST_ROWS)) if pads else [1]


def why_not(spec: GraphSpec, manifest: Manifest) -> str:
    """Why no batch of a graph can be captured, whatever the provider says; empty: it can."""
    pools = {state.pool_input for state in manifest.states} | {memory.pool_input for memory in manifest.memories}
    pools |= {state.pool_output for state in manifest.states} | {memory.pool_output for memory in manifest.memories}
    own = [tensor for tensor in (*spec.inputs, *spec.outputs) if tensor.name not in pools]
    free = {d for tensor in own for d in tensor.shape if isinstance(d, str)} - {"B"}
    return f"its tensors have free sizes besides their rows ({', '.join(sorted(free))})" if free else ""


def harmless(spec: GraphSpec, manifest: Manifest, rows: int) -> dict[str, Array]:
    """Make inputs of a batch that reads the initial state and writes to scratch."""
    if manifest.imported is None:
        slots = {"read_slots": INITIAL_ROW, "write_slots": SCRATCH_ROW}
        pools = {state.pool_input for state in manifest.states} | {memory.pool_input for memory in manifest.memories}
        return {
            tensor.name: np.full(
                [rows if isinstance(d, str) else d for d in tensor.shape],
                slots.get(tensor.name, int("lengths" in tensor.name)),
                dtype=storage(tensor.dtype),
            )
            for tensor in spec.inputs
            if tensor.name not in pools
        }
    return likely_batch(manifest, [INITIAL_ROW] * rows, [SCRATCH_ROW] * rows, np.random.default_rng(0))
