"""A graph all of whose pools, inputs and outputs lie on the device: one copy there, a run, one copy back.

Batches are padded to a few sizes. For each the addresses are bound once and stay: what changes is what lies there. A
row of padding repeats the first row of the batch, whatever that means to the model, and leaves its state in scratch.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest, TensorSpec, storage
from service.runtime.device.capture import LANE, SCRATCH_ROW, Captures
from service.runtime.device.gate import GATE, NoTurn
from service.runtime.device.layout import Layout, bucket, lay_out
from service.runtime.device.memory import Block, Bytes, DeviceMemory, Transfer
from service.runtime.device.pools import DevicePools
from service.runtime.device.staging import Staging
from service.runtime.errors import first_line
from service.runtime.graph import Graph
from service.runtime.options import run_options
from service.runtime.values import element_type

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
_WRITES: Final = "write_slots"
_UNBINDABLE: Final = frozenset({"bfloat16", "string"})
_MOST_BYTES: Final = 2**28  # of the inputs or outputs of a batch
_WIDE: Final = 2**12  # bytes a row of an output that is bound only if it is wanted: a vocabulary's probabilities
_MOST_BOUND: Final = 128  # shapes of batches, a lane, besides those that are captured
_MOST_FILLED: Final = 512  # of batches that are not padded yet
_PROOF_WAIT_S: Final = 30.0  # for the GPU, while a bundle is opened: what could not be proved is never captured


class Session(Protocol):
    """What is needed of an `ort.InferenceSession`."""

    def io_binding(self) -> Any:
        """Make a binding."""

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """Run; when this returns, the outputs are there."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A binding for batches of one shape, padding included.

    Args:
        binding: Of ONNX Runtime, to addresses that stay.
        fed: Where inputs lie in `sent`, and on the device.
        sent: Page-locked host memory, from which they are copied.
        given: Where outputs lie on the device.
        inputs: Their block.
        outputs: Their block.
        rows: B, padding included; 0 if wide outputs are bound, which are not captured.
    """

    binding: Any
    fed: Layout
    sent: Bytes
    given: Layout
    inputs: Block
    outputs: Block
    rows: int


class Filled(NamedTuple):
    """What a batch of one shape, before padding, is written to and read from."""

    bound: Bound
    inputs: Mapping[str, Array]
    padding: Sequence[tuple[Array, Array]]  # rows to fill, the row that they repeat
    upload: Sequence[Transfer]
    download: Sequence[Transfer]
    outputs: dict[str, Array]


class Resident:
    """See the module docstring. At most one thread in a lane.

    Args:
        session: Of the graph.
        graph: It, bound the plain way; says what inputs and outputs there are.
        manifest: Of the bundle.
        pools: On the device.
        memory: Of the device.
        lanes: Staging memory by lane, which all graphs of a runner share.

    Attributes:
        pads: Whether batches are padded: rows are known not to meet.
        captures: Of its runs; None: none are captured.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        graph: Graph,
        manifest: Manifest,
        pools: DevicePools,
        memory: DeviceMemory,
        lanes: dict[int, Staging],
    ) -> None:
        self._session: Session = session
        self._graph = graph
        self._pools, self._memory, self._lanes = pools, memory, lanes
        outputs = [tensor for tensor in graph.spec.outputs if tensor.name not in graph.updated.values()]
        self._outputs = {t.name: t for t in outputs if t.name not in graph.unsized}
        rows_first = all("B" not in tensor.shape[1:] for tensor in (*graph.fed, *outputs))
        self.pads = rows_first and all(tensor.shape[:1] == ("B",) for tensor in outputs)
        self._wide = {name for name, tensor in self._outputs.items() if _row_bytes(tensor) > _WIDE}
        if manifest.imported is not None:
            self.pads = self.pads and manifest.imported.max_rows is None
        self.captures: Captures | None = None
        # Memory that is host memory in truth is told apart from none.
        self._on_host = set[str]() if memory.name == "cpu" else inputs_on_host(session) & {t.name for t in graph.fed}
        self._bound: dict[int, OrderedDict[Hashable, Bound]] = {}
        self._filled: dict[int, OrderedDict[Hashable, Filled]] = {}

    @property
    def reads_host(self) -> bool:
        """Whether some input is one that ONNX Runtime wants in host memory."""
        return bool(self._on_host)

    def fits(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bool:
        """Whether a batch can be run this way."""
        return self._outputs.keys() >= set(outputs) and all(array.size for array in inputs.values())

    def run(
        self, inputs: Mapping[str, Array], outputs: tuple[str, ...], lane: int, options: ort.RunOptions
    ) -> dict[str, Array] | None:
        """Run once; see `Runner.run`. None: it did not run, since the batch is too large for this way."""
        filled = self._find(inputs, outputs, lane)
        if filled is None:
            return None
        captures = self.captures if lane == LANE else None
        if captures is not None:
            if captures.wants(filled.bound.rows):
                self._capture(captures, filled.bound.rows)
            options = captures.options(filled.bound.rows) or options
        with GATE.shared():
            self._run(filled, inputs, options)
            self._pools.turn(self._graph.updated)
            if filled.download:
                self._memory.download(filled.download)
        return filled.outputs

    def stop_padding(self) -> None:
        """From now on run batches as large as they are."""
        self.pads = False
        self._filled.clear()

    def warm_up(self, sizes: Iterable[int]) -> None:
        """Capture batches of some sizes that the calling thread has not captured yet.

        Raises:
            Exception: What ONNX Runtime raises, or NoTurn, while captures are being proved.
        """
        for rows in sizes:
            if self.captures is not None and self.captures.wants(rows):
                self._capture(self.captures, rows)

    def _run(self, filled: Filled, inputs: Mapping[str, Array], options: ort.RunOptions) -> None:
        for name, array in inputs.items():
            filled.inputs[name][...] = array
        for rows, first in filled.padding:
            rows[...] = first
        self._memory.upload(filled.upload)
        self._session.run_with_iobinding(filled.bound.binding, options)

    def _capture(self, captures: Captures, rows: int) -> None:
        """Capture a batch of a padded size on the calling thread, if others leave the GPU to it.

        Where ONNX Runtime fails at it no more are captured.

        Raises:
            Exception: What ONNX Runtime raises, or NoTurn, while captures are being proved.
        """
        batch = captures.batch(rows)
        filled = self._find(batch, (), LANE)
        if filled is None:
            return
        options = run_options(str(captures.sizes.index(rows) + 1))
        try:
            with GATE.alone(0.0 if captures.proved else _PROOF_WAIT_S):
                free = self._memory.free_bytes()
                self._run(filled, batch, options)
                left = self._memory.free_bytes()
        except Exception as error:  # of many types
            if not captures.proved:
                raise
            if isinstance(error, NoTurn):
                captures.postpone(rows, str(error))
            else:
                captures.give_up(first_line(error))
            return
        captures.add(rows, options, 0 if free is None or left is None else max(free - left, 0))

    def _find(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], lane: int) -> Filled | None:
        kept = self._filled.setdefault(lane, OrderedDict())
        turns = self._pools.turns(self._graph.read)
        key = (outputs, turns, *[(name, array.shape, array.dtype) for name, array in inputs.items()])
        filled = kept.get(key)
        if filled is not None:
            kept.move_to_end(key)
            return filled
        with GATE.shared():
            filled = self._fill(inputs, outputs, lane, turns)
        if filled is not None:
            kept[key] = filled
            if len(kept) > _MOST_FILLED:
                kept.popitem(last=False)
        return filled

    def _fill(
        self, inputs: Mapping[str, Array], outputs: tuple[str, ...], lane: int, turns: tuple[int, ...]
    ) -> Filled | None:
        """Find where a batch of a new shape goes."""
        self._graph.check_outputs(outputs)
        sizes = self._graph.sizes(inputs)
        rows = sizes.get("B", 1)
        padded = {**sizes, "B": bucket(rows)} if self.pads else sizes
        bound = self._bind(padded, not self._wide.isdisjoint(outputs), lane, turns)
        if bound is None:
            return None
        batch = {tensor.name for tensor in self._graph.fed if tensor.shape[:1] == ("B",)}
        views = {name: place.view(bound.sent) for name, place in bound.fed.places.items()}
        padding: list[tuple[Array, Array]] = []
        for name in batch if padded.get("B", 0) > rows else ():
            padding.append((views[name][rows:], np.full(1, SCRATCH_ROW) if name == _WRITES else views[name][:1]))
        start, end = bound.given.span(outputs)
        results = self._lanes[lane].results(end)
        places = bound.given.places
        download = (Transfer(bound.outputs.address + start, results.ctypes.data + start, end - start),) if end else ()
        return Filled(
            bound=bound,
            inputs={name: view[:rows] if name in batch else view for name, view in views.items()},
            padding=padding,
            upload=(Transfer.of(bound.inputs.address, bound.sent[: bound.fed.num_bytes]),),
            download=download,
            outputs={name: self._rows(name, places[name].view(results), rows) for name in outputs},
        )

    def _rows(self, name: str, array: Array, rows: int) -> Array:
        return array[:rows] if self._outputs[name].shape[:1] == ("B",) else array

    def _bind(self, sizes: Mapping[str, int], wide: bool, lane: int, turns: tuple[int, ...]) -> Bound | None:
        """A binding for batches of these sizes; the least recently used of many are let go."""
        kept = self._bound.setdefault(lane, OrderedDict())
        key = (turns, wide, *sorted(sizes.items()))
        bound = kept.get(key)
        if bound is not None:
            kept.move_to_end(key)
            return bound
        bound = self._bind_anew(sizes, wide, lane)
        if bound is not None:
            kept[key] = bound
            captured = self.captures.sizes if self.captures and lane == LANE else ()
            loose = [key for key, old in kept.items() if old.rows not in captured]
            if len(loose) > _MOST_BOUND:
                del kept[loose[0]]
        return bound

    def _bind_anew(self, sizes: Mapping[str, int], wide: bool, lane: int) -> Bound | None:
        def shape(dimensions: Sequence[int | str]) -> list[int]:
            return [sizes[d] if isinstance(d, str) else d for d in dimensions]

        fed = lay_out({tensor.name: (storage(tensor.dtype), shape(tensor.shape)) for tensor in self._graph.fed})
        chosen = {name: tensor for name, tensor in self._outputs.items() if wide or name not in self._wide}
        given = lay_out({name: (storage(tensor.dtype), shape(tensor.shape)) for name, tensor in chosen.items()})
        if max(fed.num_bytes, given.num_bytes) > _MOST_BYTES:
            return None
        staging = self._lanes.get(lane)
        if staging is None:
            staging = self._lanes[lane] = Staging(self._memory)
        inputs, sent = staging.inputs(fed.num_bytes)
        outputs = staging.outputs(given.num_bytes)
        binding = self._session.io_binding()
        self._pools.bind(binding, self._graph.read, self._graph.updated)
        kind, device_id = self._memory.name, self._memory.device_id
        for tensor in self._graph.fed:
            place = fed.places[tensor.name]
            element, extent = element_type(tensor.dtype), list(place.shape)
            if tensor.name in self._on_host:
                # Bound to the device it would be copied from there, once, now.
                binding.bind_input(tensor.name, "cpu", 0, element, extent, sent.ctypes.data + place.offset)
            else:
                binding.bind_input(tensor.name, kind, device_id, element, extent, inputs.address + place.offset)
        for name, place in given.places.items():
            element = element_type(self._outputs[name].dtype)
            binding.bind_output(name, kind, device_id, element, list(place.shape), outputs.address + place.offset)
        return Bound(binding, fed, sent, given, inputs, outputs, 0 if wide else sizes.get("B", 0))


def _row_bytes(tensor: TensorSpec) -> int:
    """Of an output, what is free counted as one."""
    sizes = [size for size in tensor.shape if isinstance(size, int)]
    return math.prod(sizes) * np.dtype(storage(tensor.dtype)).itemsize


def can_reside(graph: Graph) -> bool:
    """Whether a graph's runs can be kept on the device: it updates pools and has no types that cannot be bound."""
    types = {tensor.dtype for tensor in (*graph.fed, *graph.spec.outputs)}
    return bool(graph.updated) and not graph.initial.intersection(t.name for t in graph.fed) and not types & _UNBINDABLE


def inputs_on_host(session: ort.InferenceSession) -> set[str]:
    """Inputs that ONNX Runtime wants in host memory."""
    names = [tensor.name for tensor in session.get_inputs()]
    places = [place.name for place in session.get_input_memory_infos()]
    return {name for name, place in zip(names, places, strict=True) if place.startswith("Cpu")}
