"""Steps that are launched as a whole: CUDA graphs, one for each size that batches are padded to.

A captured run does the same to the same addresses each time; what lies there is the batch. Everything is captured when
the bundle is opened, on the scratch row, since a capture runs the graph several times.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import GraphSpec, Manifest, storage
from service.measuring.likely import likely_rows, shared_inputs
from service.runtime.device.gate import Gate
from service.runtime.device.layout import buckets
from service.runtime.device.resident import SCRATCH_ROW, Bound, Resident

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
MOST_ROWS: Final = 1024  # of a batch that is captured: beyond it the arithmetic takes longer than the launches
_NONE: Final = "-1"  # the graph id of a run that is not to be captured


class Captures:
    """The runs of one graph that can be replayed."""

    def __init__(self) -> None:
        self._options: dict[Bound, ort.RunOptions] = {}
        self.rows: list[int] = []  # of their batches

    def add(self, resident: Resident, rows: int, inputs: Mapping[str, Array]) -> None:
        """Capture a batch; one that is too large to stay on the device is left out.

        Raises:
            Exception: What ONNX Runtime raises when it cannot.
        """
        options = run_options(str(len(self._options) + 1))
        bound = resident.capture(inputs, options)
        if bound is not None:
            self._options[bound] = options
            self.rows.insert(0, rows)

    def options(self, bound: Bound) -> ort.RunOptions | None:
        """Options that replay a run with this binding; None: it is not captured."""
        return self._options.get(bound)


def run_options(graph_id: str = _NONE) -> ort.RunOptions:
    """Make options of a run: by default one that is not to be captured, which otherwise every run would be."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph_id)
    return options


def why_not(spec: GraphSpec, manifest: Manifest) -> str:
    """Why no batch of a graph can be captured, whatever the provider says; empty: it can."""
    pools = {state.pool_input for state in manifest.states} | {memory.pool_input for memory in manifest.memories}
    pools |= {state.pool_output for state in manifest.states} | {memory.pool_output for memory in manifest.memories}
    own = [tensor for tensor in (*spec.inputs, *spec.outputs) if tensor.name not in pools]
    free = {d for tensor in own for d in tensor.shape if isinstance(d, str)} - {"B"}
    return f"its tensors have free sizes besides their rows ({', '.join(sorted(free))})" if free else ""


def capture(resident: Resident, spec: GraphSpec, manifest: Manifest, most_rows: int, gate: Gate) -> Captures:
    """Capture all batches of a graph up to so many rows.

    Raises:
        Exception: What ONNX Runtime raises when it cannot.
    """
    captures = Captures()
    sizes = buckets(min(most_rows, MOST_ROWS)) if resident.pads else [1]
    for rows in reversed(sizes):  # the largest first: the others lie in its buffers
        inputs = _harmless(spec, manifest, rows)
        with gate.alone():
            captures.add(resident, rows, inputs)
    return captures


def _harmless(spec: GraphSpec, manifest: Manifest, rows: int) -> dict[str, Array]:
    """Inputs of a batch that reads the initial state and writes to scratch."""
    slots = {"read_slots": 0, "write_slots": SCRATCH_ROW}
    if manifest.imported is None:
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
    made = likely_rows(manifest, rows, np.random.default_rng(0))
    places = {name: np.full(rows, slot, dtype=np.int64) for name, slot in slots.items()}
    return {**made, **shared_inputs(manifest), **places}
