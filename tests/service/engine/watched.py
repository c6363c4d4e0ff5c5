"""The reference model as a runner in NumPy that watches its rows.

It knows from the slot table who may hold which row. What is freed is filled with rubbish, which must be there when the
row is given out again: nobody writes where he has no business, and whoever reads there answers rubbish. Rows of runs in
flight must not be touched by anybody else.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from export.manifest import GraphKind
from service.engine.slots import INITIAL_SLOT, NUM_RESERVED, SCRATCH_SLOT, Slot, SlotTable
from tests.service.engine.reference import INITIAL, TOP_K, State, make_manifest

Feeds = Mapping[str, npt.NDArray[Any]]
Arrays = dict[str, npt.NDArray[Any]]
_RUBBISH = State(-99, (-1, -2, -3, -4))


class WatchedRunner:
    """A `GraphRunner`. Its own complaints are in `faults`, since an engine survives a run that raises.

    Args:
        num_slots: Rows of the pools.
        with_chunk: Whether there is a graph of many steps.
    """

    def __init__(self, num_slots: int, with_chunk: bool = True) -> None:
        self.manifest = make_manifest(with_chunk)
        self.num_slots, self.num_memory_rows, self.indexes_rows = num_slots, 0, True
        self.faults: list[str] = []
        self.num_runs = 0
        self._digests = np.full((num_slots, 1), _RUBBISH.digest, dtype=np.int64)
        self._trails = np.full((num_slots, 2, 2), _RUBBISH.trail[0], dtype=np.float32)
        self._lock = threading.RLock()
        self._held: set[int] = set()
        self._in_flight: dict[int, tuple[set[int], set[int]]] = {}  # by lane: rows read, rows written
        for row in range(num_slots):
            self._set(row, INITIAL if row == INITIAL_SLOT else _RUBBISH)

    # -------------------------------------------------------------------------------------------------- as any runner

    def run(self, kind: GraphKind, inputs: Feeds, outputs: Sequence[str], lane: int = 0) -> Arrays:
        """Run a graph at once."""
        self.enter(kind, inputs, lane)
        results = self.compute(kind, inputs, outputs)
        self.leave(lane)
        return results

    def end_run(self, lane: int) -> None:
        """Runs of this one end at once."""

    def read_rows(self, rows: Sequence[int]) -> Arrays:
        """Copy rows out."""
        with self._lock:
            self._expect(not self._written_by_others(None) & set(rows), f"rows {rows} were copied out of a run")
            return {"digest": self._digests[list(rows)].copy(), "trail": self._trails[list(rows)].copy()}

    def write_rows(self, rows: Sequence[int], tensors: Feeds) -> None:
        """Set rows."""
        with self._lock:
            self._expect(set(rows) <= self._held, f"rows {rows} were set, held are {sorted(self._held)}")
            self._expect(len(set(rows)) == len(rows), f"rows {rows} were set twice")
            busy = {row for read, written in self._in_flight.values() for row in read | written}
            self._expect(not busy & set(rows), f"rows {rows} were set in a run of {sorted(busy)}")
            if "digest" in tensors:
                self._digests[list(rows)] = tensors["digest"]
            if "trail" in tensors:
                self._trails[list(rows)] = tensors["trail"]

    # ------------------------------------------------------------------------------------------------- a run, in parts

    def enter(self, kind: GraphKind, inputs: Feeds, lane: int) -> None:
        """A run begins: its rows are its own from now on."""
        spec = self.manifest.graphs[kind]
        wanted = {tensor.name for tensor in spec.inputs} - {"digest_pool", "trail_pool"}
        read, written = inputs["read_slots"].tolist(), inputs["write_slots"].tolist()
        with self._lock:
            self.num_runs += 1
            self._expect(inputs.keys() == wanted, f"{kind} inputs {sorted(inputs)}")
            for tensor in spec.inputs:
                array = inputs.get(tensor.name)
                fits = array is None or (array.dtype == tensor.dtype and array.ndim == len(tensor.shape))
                self._expect(fits, f"{kind} input {tensor.name}")
            self._expect(len(read) == len(written) == len(inputs["tokens"]) > 0, f"{kind}: {read} to {written}")
            real = [row for row in written if row != SCRATCH_SLOT]
            self._expect(len(set(real)) == len(real), f"rows {written} are written twice")
            self._expect(set(real) <= self._held, f"rows {written} are written, held are {sorted(self._held)}")
            self._expect(SCRATCH_SLOT not in read, "scratch is read")
            sources = set(read) - {INITIAL_SLOT}
            self._expect(sources <= self._held, f"rows {read} are read, held are {sorted(self._held)}")
            self._expect(lane not in self._in_flight, f"lane {lane} runs twice")
            for others_read, others_written in self._in_flight.values():
                clash = (others_read | others_written) & set(real) | others_written & sources
                self._expect(not clash, f"rows {sorted(clash)} are in two runs")
            self._in_flight[lane] = (sources, set(real))

    def compute(self, kind: GraphKind, inputs: Feeds, outputs: Sequence[str]) -> Arrays:
        """What the run does."""
        tokens = inputs["tokens"].tolist()
        chunks = [[token] for token in tokens] if kind == "step" else tokens
        with self._lock:
            states = [self._get(row) for row in inputs["read_slots"].tolist()]
            tops = []
            for i, (chunk, row) in enumerate(zip(chunks, inputs["write_slots"].tolist(), strict=True)):
                for token in chunk:
                    states[i] = states[i].step(token)
                    tops.append(states[i].top(TOP_K))
                self._set(row, states[i])
        shape = (*inputs["tokens"].shape, TOP_K)
        made = {
            "top_tokens": np.array([ids for ids, _ in tops], dtype=np.int64).reshape(shape),
            "top_log_probs": np.array([log_probs for _, log_probs in tops], dtype=np.float32).reshape(shape),
        }
        return {name: made[name] for name in outputs}

    def leave(self, lane: int) -> None:
        """The run is over, and nobody owns its rows on its behalf."""
        with self._lock:
            del self._in_flight[lane]

    # -------------------------------------------------------------------------------------------------------- watching

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hear of every slot that any table gives out or takes back."""
        allocate, free = SlotTable.allocate, SlotTable.free

        def spy_allocate(table: SlotTable, count: int) -> tuple[Slot, ...] | None:
            slots = allocate(table, count)
            self._hold([slot.row for slot in slots or ()])
            return slots

        def spy_free(table: SlotTable, slots: Iterable[Slot]) -> None:
            given = tuple(slots)
            free(table, given)
            self._let_go([slot.row for slot in given])

        with mock.patch.object(SlotTable, "allocate", spy_allocate), mock.patch.object(SlotTable, "free", spy_free):
            yield

    def check(self) -> None:
        """No fault until now, and every row that nobody holds as it was left."""
        with self._lock:
            for row in set(range(NUM_RESERVED, self.num_slots)) - self._held:
                self._expect(self._get(row) == _RUBBISH, f"free row {row} was written")
            self._expect(self._get(INITIAL_SLOT) == INITIAL, "the initial state was written")
            assert not self.faults, self.faults

    def _hold(self, rows: Sequence[int]) -> None:
        with self._lock:
            for row in rows:
                self._expect(row not in self._held, f"row {row} was given out twice")
                self._expect(row >= NUM_RESERVED, f"row {row} was given out")
                self._expect(self._get(row) == _RUBBISH, f"free row {row} was written")
                self._held.add(row)

    def _let_go(self, rows: Sequence[int]) -> None:
        with self._lock:
            for row in rows:
                busy = any(row in read | written for read, written in self._in_flight.values())
                self._expect(not busy, f"row {row} was freed in a run")
                self._expect(row in self._held, f"row {row} was freed and not held")
                self._held.discard(row)
                self._set(row, _RUBBISH)

    def _written_by_others(self, lane: int | None) -> set[int]:
        return {row for other, (_, written) in self._in_flight.items() if other != lane for row in written}

    def _expect(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)

    def _get(self, row: int) -> State:
        first, second, third, fourth = self._trails[row].reshape(-1).tolist()
        return State(int(self._digests[row, 0]), (int(first), int(second), int(third), int(fourth)))

    def _set(self, row: int, state: State) -> None:
        self._digests[row, 0] = state.digest
        self._trails[row] = np.array(state.trail, dtype=np.float32).reshape(2, 2)
