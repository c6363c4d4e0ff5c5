"""Check that the rewritten model does what the original does: pooled as alone, in company as alone, padded as not."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from export.manifest import DType, GraphSpec, StateSpec, storage
from importing.analysis.analyse import Analysis
from importing.analysis.padding import TIME
from importing.analysis.sizes import Search
from importing.analysis.walk import Original, Step, Walk, stack
from importing.compare import TOLERANCE, difference, is_close
from importing.errors import CheckFailed
from importing.layout import READ_SLOTS, WRITE_SLOTS
from importing.session import Pool, RunFailed, Session
from importing.signature import Array

_SEQUENCES: Final = 4
_STEPS: Final = 6
_FIRST_SLOT: Final = 2  # slot 0 holds the initial state, slot 1 is scratch
_SEED: Final = 20260102
POOLED: Final = "pooled = original"
BATCHED: Final = "batched = alone"
PADDED: Final = "padded = alone"


class Check(BaseModel):
    """How one tensor came through one check.

    Args:
        check: Which.
        tensor: Output or state, by its name in the original.
        dtype: Of its elements.
        difference: The largest, relative to the largest value (at least 1); 0: bit for bit the same.
        limit: The most that passes.
        count: Values compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    check: str
    tensor: str
    dtype: DType
    difference: float
    limit: float
    count: int


class Pools:
    """The rewritten model with pools of its own.

    Args:
        session: Of the rewritten model.
        graph: What it takes and gives.
        states: In pools.
        initial: By state, its initial state where that is not zeros.
        num_slots: Rows of the pools.
    """

    def __init__(
        self,
        session: Session,
        graph: GraphSpec,
        states: Sequence[StateSpec],
        initial: Mapping[str, Array],
        num_slots: int,
    ) -> None:
        self._session, self._states = session, states
        self.arrays: dict[str, Array] = {}
        for state in states:
            # What nobody wrote is not zero, so that reading it shows.
            pool = np.full((num_slots, *state.shape), 1, dtype=storage(state.dtype))
            pool[0] = initial.get(state.name, 0)
            self.arrays[state.name] = pool

    def run(self, inputs: Step, shared: Mapping[str, Array], read: Sequence[int], write: Sequence[int]) -> Step:
        """Step the rows of some slots."""
        feeds = {**inputs, **shared}
        if self._states:
            feeds |= {READ_SLOTS: np.array(read, np.int64), WRITE_SLOTS: np.array(write, np.int64)}
        pools = {str(s.pool_input): Pool(self.arrays[s.name], str(s.pool_output)) for s in self._states}
        return self._session.run(feeds, pools)


def check(original: Original, analysis: Analysis, search: Search, session: Session, graph: GraphSpec) -> list[Check]:
    """Run random sequences through the original, through the rewritten model alone, and there in changing company.

    Raises:
        CheckFailed: They differ; says in which tensor and by how much.
    """
    try:
        return _Checks(original, analysis, search, session, graph).run()
    except RunFailed as failed:
        raise CheckFailed(f"the rewritten model does not run where the original does: {failed}") from None


class _Checks:
    """One run of all checks."""

    def __init__(
        self, original: Original, analysis: Analysis, search: Search, session: Session, graph: GraphSpec
    ) -> None:
        self._original, self._analysis, self._search = original, analysis, search
        self._session, self._graph = session, graph
        self._states = [state.spec() for state in analysis.layout.states]
        self._initial = {s.name: s.initial for s in analysis.layout.states if s.initial is not None}
        self._worst: dict[tuple[str, str, DType], tuple[float, int]] = {}

    def run(self) -> list[Check]:
        conditions = self._analysis.conditions
        steps = [[self._search.draw_step(conditions, 1) for _ in range(_STEPS)] for _ in range(_SEQUENCES)]
        alone = [self._alone(sequence, index) for index, sequence in enumerate(steps)]
        if self._analysis.layout.max_rows != 1:
            self._together(steps, alone)
        if self._analysis.layout.lengths is not None:
            self._padded(self._analysis.layout.lengths)
        checks = [
            Check(check=name, tensor=tensor, dtype=dtype, difference=apart, limit=TOLERANCE.get(dtype, 0), count=count)
            for (name, tensor, dtype), (apart, count) in self._worst.items()
        ]
        for each in checks:
            if not is_close(each.dtype, each.difference):
                raise CheckFailed(
                    f"{each.check}: {each.tensor}: expected a difference of at most {each.limit:g}, got "
                    f"{each.difference:.3g}"
                )
        return checks

    def _pools(self) -> Pools:
        return Pools(self._session, self._graph, self._states, self._initial, _FIRST_SLOT + _SEQUENCES)

    def _alone(self, sequence: Sequence[Step], index: int) -> list[Step]:
        """Run one sequence in a slot, and the original beside it; give its outputs and, last, its states."""
        conditions = self._analysis.conditions
        walk, pools, slot = Walk(self._original, conditions, 1), self._pools(), _FIRST_SLOT + index
        outputs = []
        for number, inputs in enumerate(sequence):
            before = {name: pool.copy() for name, pool in pools.arrays.items()}
            got = pools.run(inputs, conditions.shared, [slot if number else 0], [slot])
            expected = walk.step(inputs)
            for tensor in self._analysis.layout.outputs:
                whole = expected[tensor.name]
                rows = whole[np.newaxis] if tensor.axis is None else np.moveaxis(whole, tensor.axis, 0)
                self._compare(POOLED, tensor.name, tensor.dtype, rows, got[tensor.name])
            for state in self._analysis.layout.states:
                whole = walk.states[state.input]
                row = whole if state.axis is None else np.take(whole, 0, state.axis)
                pool = pools.arrays[state.name]
                self._compare(POOLED, state.output, state.dtype, row, pool[slot])
                others = np.delete(np.arange(len(pool)), slot)
                if before[state.name][others].tobytes() != pool[others].tobytes():
                    raise CheckFailed(f"{POOLED}: {state.output}: expected row {slot} alone to change, got another too")
            outputs.append(got)
        return [*outputs, {name: pool[slot : slot + 1].copy() for name, pool in pools.arrays.items()}]

    def _together(self, steps: Sequence[Sequence[Step]], alone: Sequence[Sequence[Step]]) -> None:
        """Run all sequences in batches of changing company and order, with a row of padding."""
        generator = np.random.default_rng(_SEED)
        pools, taken = self._pools(), [0] * _SEQUENCES
        dtypes = {tensor.name: tensor.dtype for tensor in self._analysis.layout.outputs}
        while waiting := [index for index in range(_SEQUENCES) if taken[index] < _STEPS]:
            size = int(generator.integers(1, len(waiting) + 1))
            members = [int(index) for index in generator.permutation(waiting)[:size]]
            rows = [steps[index][taken[index]] for index in members]
            read = [_FIRST_SLOT + index if taken[index] else 0 for index in members]
            write = [_FIRST_SLOT + index for index in members]
            got = pools.run(stack([*rows, rows[0]]), self._analysis.conditions.shared, [*read, 0], [*write, 1])
            for row, index in enumerate(members):
                for name, array in alone[index][taken[index]].items():
                    self._compare(BATCHED, name, dtypes[name], array, got[name][row : row + 1])
                taken[index] += 1
        for index in range(_SEQUENCES):
            for state in self._analysis.layout.states:
                expected, slot = alone[index][-1][state.name], _FIRST_SLOT + index
                self._compare(BATCHED, state.output, state.dtype, expected, pools.arrays[state.name][slot : slot + 1])

    def _padded(self, lengths: str) -> None:
        """Run a row as it is, and padded with zeros beside one that is longer."""
        conditions = self._analysis.conditions
        other = self._search.another(conditions, TIME, though_given=True)
        if other is None:
            raise CheckFailed(f"--lengths: expected rows of several lengths to run, got {conditions.sizes[TIME]} alone")
        short, long = sorted((conditions, other), key=lambda each: each.sizes[TIME])
        row, beside = self._search.draw_step(short, 1), self._search.draw_step(long, 1)
        pools = self._pools()
        expected, missing = pools.run(row, conditions.shared, (), ()), long.sizes[TIME] - short.sizes[TIME]
        padded = {}
        for tensor in self._analysis.layout.inputs:
            if not tensor.shared:
                widths = [(0, missing if size == TIME else 0) for size in tensor.spec().shape]
                padded[tensor.name] = np.pad(row[tensor.name], widths)
        got = pools.run(stack([padded, beside]), conditions.shared, (), ())
        for tensor in self._analysis.layout.outputs:
            shape = tensor.spec().shape
            cut = got[tensor.name][:1]
            if TIME in shape:
                cut = np.take(cut, range(short.sizes[TIME]), shape.index(TIME))
            self._compare(PADDED, tensor.name, tensor.dtype, expected[tensor.name], cut)

    def _compare(self, name: str, tensor: str, dtype: DType, expected: Array, got: Array) -> None:
        apart, count = self._worst.get((name, tensor, dtype), (0.0, 0))
        self._worst[name, tensor, dtype] = max(apart, difference(dtype, expected, got)), count + expected.size
