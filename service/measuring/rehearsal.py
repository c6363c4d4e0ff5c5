"""Made-up rows for the graphs of a runner, run alone or in company, without an engine.

A row is everything that one request would bring: its inputs, its state, its attention memory. `Rehearsal.run` lays rows
out as a batch, with padding, slots and memory rows as the engine does it, and gives back each row's part of the results
with the padding cut off, so that the same row can be compared with itself in another batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import GraphKind, GraphSpec, Manifest, TensorSpec, own_tensors, storage
from models.symbols import PAD_ID
from service.engine.pages import SCRATCH_ROW, ZERO_ROW
from service.engine.slots import INITIAL_SLOT, NUM_RESERVED, SCRATCH_SLOT
from service.runtime.likely import likely_rows, shared_inputs

Array = npt.NDArray[Any]
_PLACES: Final = frozenset({"read_slots", "write_slots", "source_rows", "source_lengths", "lengths"})
_SLOTS: Final = frozenset({"read_slots", "write_slots"})
_FEWEST_IDS: Final = 4  # the special symbols, which every vocabulary of inputs has
_EXTREMES: Final = (1.0, 1000.0)
_MAX_CHARACTERS: Final = 9  # of a word


class PooledRunner(Protocol):
    """What a rehearsal needs of `service.runtime.runner.Runner`."""

    manifest: Manifest
    num_slots: int
    num_memory_rows: int

    def run(
        self, kind: GraphKind, inputs: Mapping[str, Array], outputs: Sequence[str], lane: int = 0
    ) -> Mapping[str, Array]:
        """Run a graph once, updating the pools."""

    def read_rows(self, rows: Sequence[int]) -> Mapping[str, Array]:
        """Copy rows of the state pools out."""

    def write_rows(self, rows: Sequence[int], tensors: Mapping[str, Array]) -> None:
        """Set rows of the state pools."""

    def read_memory(self, rows: Sequence[int]) -> Mapping[str, Array]:
        """Copy rows of the memory pools out."""

    def write_memory(self, rows: Sequence[int], tensors: Mapping[str, Array]) -> None:
        """Set rows of the memory pools."""


class Row(NamedTuple):
    """One row, by name and without the batch dimension."""

    inputs: Mapping[str, Array]
    length: int  # T of a sequence or a chunk, S of a source
    state: Mapping[str, Array]  # before the run; of graphs with pools
    memory: Mapping[str, Array]  # (length, *shape), of a step that attends


Result = dict[str, Array]  # outputs by name, and `state:<name>` and `memory:<name>` for what lies in the pools after


class Rehearsal:
    """Makes rows and runs them.

    Args:
        runner: Nobody else may use it meanwhile; `restore` leaves its pools zero, as they are when it is opened.
        num_ids: By input name, how many ids there are; 4 of those left out.
        generator: Of all that is random.
    """

    def __init__(self, runner: PooledRunner, num_ids: Mapping[str, int], generator: np.random.Generator) -> None:
        self._runner, self._num_ids, self._generator = runner, num_ids, generator
        self._manifest = manifest = runner.manifest
        # The names of an imported model's own inputs mean nothing.
        self._places = _PLACES if manifest.imported is None else _SLOTS
        self._graphs = manifest.graphs
        self._states = [state for state in manifest.states if state.pool_input is not None]
        self._memories = manifest.memories
        self.attends = bool(manifest.memories)
        self._slots = range(NUM_RESERVED, runner.num_slots)
        self._used_slots, self._used_memory = NUM_RESERVED, SCRATCH_ROW + 1

    def make(self, kind: GraphKind, length: int, extreme: bool) -> Row:
        """Make a row.

        Args:
            kind: For which graph.
            length: T or S.
            extreme: Whether states and memory lie at the edge of what a gate lets through or far beyond; of an imported
                model, whether its states are the initial ones.
        """
        spec = self._graphs[kind]
        if self._manifest.imported is not None:
            return self._make_imported(length, fresh=extreme)
        inputs: dict[str, Array] = {}
        num_characters = int(self._generator.integers(1, _MAX_CHARACTERS + 1))
        for tensor in self._given(spec):
            shape = [{"T": length, "S": length, "C": num_characters}[d] if isinstance(d, str) else d
                     for d in tensor.shape[1:]]  # fmt: skip
            if tensor.dtype != "int64":
                inputs[tensor.name] = self._values(tensor.name, shape, extreme)
            elif tensor.name == "word_lengths":
                inputs[tensor.name] = self._generator.integers(1, num_characters + 1, shape)
            else:
                inputs[tensor.name] = self._generator.integers(0, self._num_ids.get(tensor.name, _FEWEST_IDS), shape)
        names = {tensor.name for tensor in spec.inputs}
        state = {s.name: self._values(s.name, s.shape, extreme) for s in self._states if "read_slots" in names}
        attends = "source_lengths" in names
        memory = {m.name: self._values(m.name, (length, *m.shape), extreme) for m in self._memories if attends}
        return Row(inputs, length, state, memory)

    def _make_imported(self, length: int, fresh: bool) -> Row:
        """Its states are the initial one or near it, which are possible: integers there may be positions."""
        manifest, generator = self._manifest, self._generator
        assert manifest.imported is not None
        pads = manifest.imported.lengths_input is not None
        rows = likely_rows(manifest, 1, generator, length if pads else None)
        initial = self._runner.read_rows([INITIAL_SLOT]) if self._states else {}
        state = {name: array[0] if fresh else array[0] + _noise(array[0], generator) for name, array in initial.items()}
        length = length if pads else manifest.imported.examples.get("T", 1)
        return Row({name: array[0] for name, array in rows.items()}, length, state, {})

    def max_rows(self, kind: GraphKind) -> int:
        """Rows of a batch whose results can be told apart: each needs a slot of its own."""
        uses_pools = any(tensor.name == "write_slots" for tensor in self._graphs[kind].inputs)
        return len(self._slots) if uses_pools else 1 << 30

    def run(self, kind: GraphKind, rows: Sequence[Row]) -> list[Result]:
        """Run a batch; rows beyond `max_rows` and what fits into the memory are run as padding.

        Returns:
            One result a row, of those that had a slot and memory.
        """
        spec = self._graphs[kind]
        names = {tensor.name for tensor in spec.inputs} & self._places
        outputs = [tensor for tensor in spec.outputs if tensor.shape[:1] == ("B",)]
        shared = {} if self._manifest.imported is None else shared_inputs(self._manifest)
        inputs = shared | {
            tensor.name: _pad(tensor, [row.inputs[tensor.name] for row in rows]) for tensor in self._given(spec)
        }
        lengths = np.array([row.length for row in rows], dtype=np.int64)
        num_whole = min(len(rows), self.max_rows(kind))
        places: list[Array] = []
        if "source_rows" in names:
            places = self._memory_rows(lengths)
            num_whole = min(num_whole, len(places))
            writes = "source_lengths" not in names
            inputs["source_rows"] = np.full((len(rows), int(lengths.max())), SCRATCH_ROW if writes else ZERO_ROW)
            for row, place in enumerate(places[:num_whole]):
                inputs["source_rows"][row, : len(place)] = place
        for name in names & {"lengths", "source_lengths"}:
            inputs[name] = lengths
        slots = list(self._slots[:num_whole])
        padding = len(rows) - num_whole
        if "read_slots" in names:
            inputs["read_slots"] = np.array(slots + [INITIAL_SLOT] * padding, dtype=np.int64)
        if "write_slots" in names:
            inputs["write_slots"] = np.array(slots + [SCRATCH_SLOT] * padding, dtype=np.int64)
        self._set(rows[:num_whole], slots, places)
        got = self._runner.run(kind, inputs, [tensor.name for tensor in outputs])
        results = [_cut(got, outputs, row, rows[row].length) for row in range(num_whole)]
        if "write_slots" in names and slots:
            for name, states in self._runner.read_rows(slots).items():
                for result, state in zip(results, states, strict=True):
                    result[f"state:{name}"] = state
        if places and "source_lengths" not in names:
            for result, place in zip(results, places, strict=False):
                result |= {
                    f"memory:{name}": memory for name, memory in self._runner.read_memory(place.tolist()).items()
                }
        return results

    def restore(self) -> None:
        """Leave the pools zero."""
        slots, rows = range(SCRATCH_SLOT, self._used_slots), range(SCRATCH_ROW, self._used_memory)
        if self._states:
            zeros = {s.name: np.zeros((len(slots), *s.shape), storage(s.dtype)) for s in self._states}
            self._runner.write_rows(slots, zeros)
        if self._memories:
            self._runner.write_memory(rows, {m.name: np.zeros((len(rows), *m.shape), m.dtype) for m in self._memories})

    def _given(self, spec: GraphSpec) -> list[TensorSpec]:
        """Inputs that a request brings."""
        if self._manifest.imported is not None:
            return list(own_tensors(self._manifest).inputs.values())
        return [tensor for tensor in spec.inputs if tensor.shape[0] == "B" and tensor.name not in _PLACES]

    def _memory_rows(self, lengths: Array) -> list[Array]:
        """Memory rows of each row of the batch, for as many as fit."""
        ends = np.cumsum(lengths) + SCRATCH_ROW + 1
        return [np.arange(end - length, end) for length, end in zip(lengths, ends, strict=True)
                if end <= self._runner.num_memory_rows]  # fmt: skip

    def _set(self, rows: Sequence[Row], slots: Sequence[int], places: Sequence[Array]) -> None:
        if slots and self._states:
            self._used_slots = max(self._used_slots, slots[-1] + 1)
        if slots and rows[0].state:
            states = {s.name: np.stack([row.state[s.name] for row in rows]) for s in self._states}
            self._runner.write_rows(slots, states)
        if places:
            taken = np.concatenate(places[: len(rows)])
            self._used_memory = max(self._used_memory, int(taken[-1]) + 1)
            if rows[0].memory:
                memories = {m.name: np.concatenate([row.memory[m.name] for row in rows]) for m in self._memories}
                self._runner.write_memory(taken.tolist(), memories)

    def _values(self, name: str, shape: Sequence[int], extreme: bool) -> Array:
        """A gate bounds what is hidden to (-1, 1), but a caller may open a session with anything."""
        if extreme:
            signs = self._generator.integers(0, 2, shape) * 2 - 1
            return (signs * float(self._generator.choice(_EXTREMES))).astype(np.float32)
        hidden = "hidden" in name
        likely = self._generator.uniform(-1, 1, shape) if hidden else self._generator.normal(0, 1.5, shape)
        return likely.astype(np.float32)


def _noise(array: Array, generator: np.random.Generator) -> Array:
    """What a float state may differ by."""
    if array.dtype.kind != "f":
        return np.zeros_like(array)
    return generator.normal(0, 1, array.shape).astype(array.dtype)


def _pad(tensor: TensorSpec, arrays: Sequence[Array]) -> Array:
    """A batch as large as the largest in every dimension; padding is a word of one character."""
    shape = (len(arrays), *(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True)))
    batch = np.full(shape, 1 if tensor.name == "word_lengths" else PAD_ID, dtype=storage(tensor.dtype))
    for row, array in enumerate(arrays):
        real: tuple[int | slice, ...] = (row, *(slice(size) for size in array.shape))
        batch[real] = array
    return batch


def _cut(got: Mapping[str, Array], outputs: Sequence[TensorSpec], row: int, length: int) -> Result:
    return {
        tensor.name: got[tensor.name][row, :length].copy() if "T" in tensor.shape[1:2] else got[tensor.name][row].copy()
        for tensor in outputs
    }
