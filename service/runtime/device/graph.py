"""One graph on a device: kept there where that can be, and else run the plain way on pools that lie there."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from service.runtime.device.gate import GATE
from service.runtime.device.pools import DevicePools
from service.runtime.device.resident import Resident
from service.runtime.graph import Graph

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]


class DeviceGraph:
    """See the module docstring.

    The plain way makes its bindings for each run, since ONNX Runtime copies what is bound from host memory when it is
    bound, and leaves the allocating of outputs to it.

    Args:
        graph: Bound the plain way.
        resident: The same graph, kept on the device; None: it cannot be.
        pools: On the device.
        options: Of runs that are given none.
    """

    def __init__(self, graph: Graph, resident: Resident | None, pools: DevicePools, options: ort.RunOptions) -> None:
        self.spec, self.updated = graph.spec, graph.updated
        self.resident = resident
        self._graph, self._pools, self._options = graph, pools, options

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        lane: int = 0,
        options: ort.RunOptions | None = None,
    ) -> dict[str, Array]:
        """Run once; see `Runner.run`."""
        turning = self.updated and not self._pools.in_place
        with self._pools.turning if turning else contextlib.nullcontext():
            return self._run(inputs, outputs, lane, options or self._options)

    def run_apart(self, inputs: Mapping[str, Array], pools: Mapping[str, Array]) -> dict[str, Array]:
        """Run on copies of the pools, the plain way, and return the updated pools by their input's name."""
        with GATE.shared():
            return self._graph.run_apart(inputs, pools)

    def _run(
        self, inputs: Mapping[str, Array], outputs: tuple[str, ...], lane: int, options: ort.RunOptions
    ) -> dict[str, Array]:
        if self.resident is not None and self.resident.fits(inputs, outputs):
            results = self.resident.run(inputs, outputs, lane, options)
            if results is not None:
                return results
        with GATE.shared():
            if not self.updated:
                return self._graph.run(inputs, outputs, lane, options)
            results = self._graph.run_anew(inputs, outputs, lane, options)
            self._pools.turn(self.updated)
            return results
