"""The comparisons behind a parity report, on random inputs.

Against PyTorch: B in 1..8, T (or S) in {1, 7, 33}, ragged lengths, five steps with carried state through the pools,
read and write slots permuted, a forked sequence and a padding row among them. Against themselves: a row alone and the
same row in company, bit for bit; a chunk and its steps one by one, bit for bit; and slots that no row wrote, bit for
bit what they were.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from export.backend import Array, Backend, Feeds, Floats, Ints
from export.compare import difference, pairs, rounding
from export.manifest import GraphKind
from export.probes import Probes, extents, inputs, num_positions, outputs, row_of, updated_pools
from export.report import CHUNK_CHECK, Worst

MAX_ROWS: Final = 8
LENGTHS: Final = (1, 7, 33)
NUM_STEPS: Final = 5
# Chunks of more steps are not carried on: rounding alone would add up to the limit over hundreds of steps.
MAX_CARRIED_LENGTH: Final = 7
# Matrix kernels are chosen by the number of rows: one batch of the invariance check is larger than the others.
LARGE_BATCH: Final = 33
# Slot 0 is the initial state; slot 1, and row 1 of a memory, take the writes of padding and hold anything.
INITIAL, SCRATCH, FIRST = 0, 1, 2
# The source of a padding row: one position that is zero.
PADDING: Final[Mapping[str, int]] = {"source_rows": INITIAL, "source_lengths": 1}


@dataclass(frozen=True)
class Checks:
    """Runs feeds and collects differences.

    Args:
        graphs: The exported graphs.
        reference: What they came from.
        exact: The same in float64, with pools of its own. What separates it from the reference is rounding alone, and
            a tensor that the reference itself knows no better has a wider limit; see `export.report.Check`.
        probes: Makes the random inputs.
        limit: Largest absolute difference from the reference that passes; None reports only.
        worst: Where the differences go.
    """

    graphs: Backend
    reference: Backend
    exact: Backend
    probes: Probes
    limit: float | None
    worst: Worst = field(default_factory=Worst)

    def run_all(self) -> None:
        """Run every check that the model's graphs allow."""
        kinds = self.probes.manifest.graphs
        for longest in LENGTHS:
            for num_rows in (1, int(self.probes.rng.integers(2, MAX_ROWS)), MAX_ROWS):
                if "sequence" in kinds:
                    self.sequences(num_rows, longest)
                if "step" in kinds:
                    self.steps(num_rows, longest)
                if "chunk" in kinds:
                    self.chunks(num_rows, longest)
        for longest in LENGTHS[1:]:
            if "sequence" in kinds:
                self.sequences(LARGE_BATCH, longest, against_reference=False)
            if "step" in kinds:
                self.steps(LARGE_BATCH, longest, against_reference=False)
            if "chunk" in kinds:
                self.chunks(LARGE_BATCH, longest)

    def sequences(self, num_rows: int, longest: int, against_reference: bool = True) -> None:
        """Run chunks of sequences with their state carried from chunk to chunk, B rows of at most T steps each."""
        carried: dict[str, Array] = {}
        carries = against_reference and longest <= MAX_CARRIED_LENGTH
        for step in range(NUM_STEPS if carries else 1):
            lengths = self.probes.lengths(num_rows, longest)
            feeds = self.probes.feeds("sequence", {"lengths": lengths, **carried}, B=num_rows, T=longest)
            got = self._run("sequence", feeds, "random inputs" if step == 0 else "carried state", against_reference)
            carried = {
                state.sequence_input: got[state.sequence_output]
                for state in self.probes.manifest.states
                if state.sequence_input is not None and state.sequence_output is not None
            }

    def steps(self, num_rows: int, longest: int, against_reference: bool = True) -> None:
        """Take steps through the pools, after encoding sources of at most `longest` positions where there are any.

        By turns the rows write into slots of nobody in the batch and into one another's. The third step forks: the
        last row goes on from the first one's state over the first one's source. In the fourth it is padding.
        """
        num_slots, num_memory_rows = FIRST + 3 * num_rows, FIRST + num_rows * longest
        self._fill_pools(num_slots, num_memory_rows)
        slots = self.probes.rng.permutation(np.arange(FIRST, num_slots))
        reads = slots[:num_rows]
        source = self._encode(reads, longest, num_memory_rows, against_reference)
        if not source:
            reads = np.concatenate([[INITIAL], reads[1:]])
        for step in range(NUM_STEPS if against_reference else 1):
            writes = self.probes.rng.permutation(reads if step % 2 else np.setdiff1d(slots, reads))[:num_rows]
            if step == 2 and num_rows > 1:
                reads = np.concatenate([reads[:-1], reads[:1]])
                source = {name: np.concatenate([rows[:-1], rows[:1]]) for name, rows in source.items()}
            if step == 3 and num_rows > 1:
                reads = np.concatenate([reads[:-1], [INITIAL]])
                writes = np.concatenate([writes[:-1], [SCRATCH]])
                source = {
                    name: np.concatenate([rows[:-1], PADDING[name] + 0 * rows[:1]]) for name, rows in source.items()
                }
            feeds = {"read_slots": reads, "write_slots": writes, **source}
            feeds = self.probes.feeds("step", feeds, B=num_rows)
            self._run("step", feeds, "random inputs" if step == 0 else "carried state", against_reference)
            reads = np.where(writes == SCRATCH, INITIAL, writes)

    def chunks(self, num_rows: int, num_steps: int) -> None:
        """Run one chunk, T steps of B rows, and compare it with T runs of the step graph, bit for bit.

        The first row starts a sequence, the last one goes on from the state that the second one goes on from.
        """
        self._fill_pools(FIRST + 2 * num_rows, FIRST)
        slots = np.arange(FIRST, FIRST + 2 * num_rows)
        reads, writes = self.probes.rng.permutation(slots)[:num_rows], self.probes.rng.permutation(slots)[:num_rows]
        reads[0], reads[-1] = INITIAL, reads[min(1, num_rows - 1)]
        known = {"read_slots": reads, "write_slots": writes}
        feeds = self.probes.feeds("chunk", known, B=num_rows, T=num_steps)
        before = self._copy_pools("chunk")
        got = self._run("chunk", feeds, "random inputs", against_reference=False)
        after = self._copy_pools("chunk")
        self._set_pools(before)
        timed = {spec.name for spec in inputs(self.probes.manifest, "chunk") if "T" in spec.shape}
        for step in range(num_steps):
            one = {name: array[:, step] if name in timed else array for name, array in feeds.items()}
            stepped = self.graphs.run("step", {**one, "read_slots": writes} if step else one)
            for spec in outputs(self.probes.manifest, "chunk"):
                self._add(CHUNK_CHECK, "chunk", spec.name, got[spec.name][:, step], stepped[spec.name], 0)
        for name, pool in self.graphs.pools.items():
            self._add(CHUNK_CHECK, "chunk", name, after[name], pool, 0)

    def _encode(self, slots: Ints, longest: int, num_memory_rows: int, against_reference: bool) -> dict[str, Ints]:
        """Encode random sources into random memory rows; give what a step reads them by, nothing without memory."""
        if not self.probes.manifest.memories:
            return {}
        rows = self.probes.rng.permutation(np.arange(FIRST, num_memory_rows)).reshape(len(slots), longest)
        lengths = self.probes.lengths(len(slots), longest)
        real = np.arange(longest) < lengths[:, None]
        feeds = {"lengths": lengths, "source_rows": np.where(real, rows, SCRATCH), "write_slots": slots}
        feeds = self.probes.feeds("encode", feeds, B=len(slots), S=longest)
        self._run("encode", feeds, "random inputs", against_reference)
        self._share_pools()
        return {"source_rows": np.where(real, rows, INITIAL), "source_lengths": lengths}

    def _fill_pools(self, num_slots: int, num_memory_rows: int) -> None:
        """Give all backends the same random state in every slot that a sequence could own."""
        backends = (self.graphs, self.reference, self.exact)
        for backend in backends:
            backend.allocate(num_slots, num_memory_rows)
        for state in self.probes.manifest.states:
            if state.pool_input is not None:
                values = self.probes.rng.uniform(-1, 1, (num_slots - FIRST, *state.shape)).astype(np.float32)
                for backend in backends:
                    backend.pools[state.name][FIRST:] = values

    def _share_pools(self) -> None:
        """Let everybody go on from what the graphs encoded: how far that is off is judged there, not in the steps.

        An encoder over dozens of random tokens, and sharp attention behind it, make of 3e-6 in the memory 4e-5 in a
        log-probability, in right graphs too.
        """
        for backend in (self.reference, self.exact):
            for name, pool in self.graphs.pools.items():
                backend.pools[name][...] = pool

    def _run(self, kind: GraphKind, feeds: Feeds, check: str, against_reference: bool) -> dict[str, Array]:
        """Run one batch on the graphs and compare it with the reference, and with its rows run alone."""
        before = self._copy_pools(kind)
        got = self.graphs.run(kind, feeds)
        after = self._copy_pools(kind)
        self._compare_untouched(kind, feeds, before, after)
        if against_reference:
            self._compare_reference(kind, feeds, check, got, after)
        self._compare_alone(kind, feeds, before, got, after)
        self._set_pools(after)
        return got

    def _compare_reference(
        self, kind: GraphKind, feeds: Feeds, check: str, got: Mapping[str, Array], after: Mapping[str, Floats]
    ) -> None:
        longest = num_positions(self.probes.manifest.graphs[kind], feeds)
        want, true = self.reference.run(kind, feeds), self.exact.run(kind, feeds)
        for (tensor, left, right), (_, _, double) in zip(pairs(got, want), pairs(got, true), strict=True):
            valid = self._valid(kind, tensor, left, feeds)
            own = rounding(right[valid], double[valid])
            self._add(check, kind, tensor, left[valid], right[valid], self.limit, own, longest)
        for name in updated_pools(self.probes.manifest, kind):
            kept = np.arange(len(after[name])) != SCRATCH
            pool, double = self.reference.pools[name][kept], self.exact.pools[name][kept]
            self._add(check, kind, name, after[name][kept], pool, self.limit, rounding(pool, double), longest)

    def _copy_pools(self, kind: GraphKind) -> dict[str, Floats]:
        """The pools as they are; none for a graph that takes no pools."""
        return {} if kind == "sequence" else {name: pool.copy() for name, pool in self.graphs.pools.items()}

    def _set_pools(self, values: Mapping[str, Floats]) -> None:
        for name, array in values.items():
            self.graphs.pools[name][...] = array

    def _compare_untouched(
        self, kind: GraphKind, feeds: Feeds, before: Mapping[str, Floats], after: Mapping[str, Floats]
    ) -> None:
        for name, old in before.items():
            kept = np.setdiff1d(np.arange(len(old)), [*written(self.probes, kind, name, feeds), SCRATCH])
            self._add("untouched rows", kind, name, after[name][kept], old[kept], 0)

    def _compare_alone(
        self,
        kind: GraphKind,
        feeds: Feeds,
        before: Mapping[str, Floats],
        got: Mapping[str, Array],
        after: Mapping[str, Floats],
    ) -> None:
        check = "alone = batched"
        for row in range(len(next(iter(feeds.values())))):
            self._set_pools(before)
            alone = row_of(self.probes.manifest.graphs[kind], feeds, row)
            outputs_alone = self.graphs.run(kind, alone)
            sizes = extents(feeds, row)
            for spec in outputs(self.probes.manifest, kind):
                steps = sizes.get("T") if "T" in spec.shape else None
                company = got[spec.name][row] if steps is None else got[spec.name][row, :steps]
                self._add(check, kind, spec.name, outputs_alone[spec.name][0], company, 0)
            for name in before:
                rows = [own for own in written(self.probes, kind, name, alone) if own != SCRATCH]
                if rows:
                    self._add(check, kind, name, self.graphs.pools[name][rows], after[name][rows], 0)

    def _valid(self, kind: GraphKind, tensor: str, values: Array, feeds: Feeds) -> Array | slice:
        """Which (B, T) of an output is not padding; everything of one without time."""
        shapes = {spec.name: spec.shape for spec in outputs(self.probes.manifest, kind)}
        if "T" not in shapes.get(tensor, ()):
            return slice(None)
        return np.asarray(np.arange(values.shape[1]) < feeds["lengths"][:, None])

    def _add(
        self,
        check: str,
        kind: GraphKind,
        tensor: str,
        got: Array,
        want: Array,
        limit: float | None,
        rounding: float | None = None,
        longest: int | None = None,
    ) -> None:
        apart = difference(got, want, exact=limit == 0)
        self.worst.add(check, kind, tensor, apart, limit, got.size, rounding, longest)


def written(probes: Probes, kind: GraphKind, pool: str, feeds: Feeds) -> list[int]:
    """Which rows of a pool a run of a graph may write."""
    if kind == "sequence":
        return []
    if pool in {memory.name for memory in probes.manifest.memories}:
        return [int(row) for row in feeds["source_rows"].flat] if kind == "encode" else []
    return [int(slot) for slot in feeds["write_slots"]]
