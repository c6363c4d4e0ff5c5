"""Prove a guess of where the rows are: sequences that share runs must be what they are alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from importing.analysis.sizes import Search
from importing.analysis.walk import Conditions, Original, Step, Walk, stack
from importing.compare import difference, has_finite, is_close
from importing.session import RunFailed
from importing.signature import Array, Value, is_float

_ROWS: Final = 3
_STEPS: Final = 12
_COMPANIES: Final = (2, 17)  # other numbers of rows: what depends on how many there are shows
_SMALL_SIZES: Final = (1, 2, 3, 5, 12)
_SMALL_COMPANIES: Final = (2, 3, 4, 8)
# What floats are multiplied by: some rows meet only where values are large, as where the loudest sets the gain.
_SCALES: Final = (0.1, 1.0, 10.0, 100.0)


# More than that is no rounding, however the kernels add up numbers that are far apart.
_SLACK: Final = 100.0


class NotRows(Exception):
    """Under a guess, rows of one run are not what they are alone; says where."""


def prove_rows(original: Original, search: Search, conditions: Conditions) -> dict[str, int]:
    """Run three sequences together and alone: on inputs like any, on small and large ones, and on unusual ones.

    Returns:
        By own output, which axis has the rows.

    Raises:
        NotRows: They differ, or an output was never finite, so that nothing was compared.
        RunFailed: Three rows do not run.
    """
    found = _Found({}, set())
    walks = _Walks(original, conditions, found)
    for _ in range(_STEPS):
        rows = [search.draw_step(conditions, 1) for _ in range(_ROWS)]
        walks.compare(rows, walks.step_alone(rows))
    for count in _COMPANIES:
        company = _Walks(original, conditions, found, count)
        for _ in range(2):
            rows = [search.draw_step(conditions, 1) for _ in range(count)]
            company.compare(rows, company.step_alone(rows))
    for unusual in (False, True):
        _prove_scaled(_Walks(original, conditions, found), search, conditions, unusual)
    _prove_refusals(search, conditions)
    for value in original.own_outputs:
        if is_float(value.dtype) and value.name not in found.finite:
            raise NotRows(f"output {value.name}: expected numbers to compare, got none that is finite on any inputs")
    return found.axes


def _prove_scaled(walks: "_Walks", search: Search, conditions: Conditions, unusual: bool) -> None:
    """Take steps in which each row is of another size than those beside it, and than it was before."""
    for step in range(len(_SCALES)):
        scales = [_SCALES[(step + row) % len(_SCALES)] for row in range(_ROWS)]
        rows = [search.draw_step(conditions, 1, scale, unusual) for scale in scales]
        try:
            expected = walks.step_alone(rows)
        except RunFailed:
            return  # these are no values for this model, and prove nothing
        walks.compare(rows, expected, _SLACK)


def _prove_refusals(search: Search, conditions: Conditions) -> None:
    """What one row is refused for, several must be: else rows make up for each other's elements."""
    for name in search.free_names(conditions.guess):
        for size in _SMALL_SIZES:
            other = search.sized(conditions, name, size)
            if other is None or search.works(other):
                continue
            if rows := next((rows for rows in _SMALL_COMPANIES if search.works(other, rows)), None):
                raise NotRows(f"size {name} = {size}: expected {rows} rows to be refused as one is, got an answer")


@dataclass(frozen=True)
class _Found:
    """What runs told of the own outputs.

    Args:
        axes: By name, which axis has the rows.
        finite: Those that had a finite value.
    """

    axes: dict[str, int]
    finite: set[str]


class _Walks:
    """The same sequences, together and alone.

    Args:
        original: The model.
        conditions: With the guess that is to be proved.
        found: Added to.
        num_rows: Sequences.
    """

    def __init__(self, original: Original, conditions: Conditions, found: _Found, num_rows: int = _ROWS) -> None:
        self._original, self._conditions, self._found = original, conditions, found
        self._together = Walk(original, conditions, num_rows)
        self._alone = [Walk(original, conditions, 1) for _ in range(num_rows)]

    def step_alone(self, rows: Sequence[Step]) -> list[dict[str, Array]]:
        """Take a step with each sequence alone."""
        return [walk.step(row) for walk, row in zip(self._alone, rows, strict=True)]

    def compare(self, rows: Sequence[Step], expected: Sequence[dict[str, Array]], slack: float = 1.0) -> None:
        """Take the same step together, and compare outputs and states; `slack` times the usual difference may be."""
        got = self._together.step(stack(rows))
        for value in self._original.own_outputs:
            each = [outputs[value.name] for outputs in expected]
            axis = self._found.axes.setdefault(value.name, _rows_axis(value.name, each, got[value.name]))
            _compare_rows(f"output {value.name}", value, axis, each, got[value.name], slack)
            if any(has_finite(value.dtype, array) for array in each):
                self._found.finite.add(value.name)
        for pair in self._original.pairs:
            value = self._original.signature.input(pair.input)
            rows_axis = self._conditions.guess.axes[pair.input]
            assert rows_axis is not None
            each = [walk.states[pair.input] for walk in self._alone]
            together = self._together.states[pair.input]
            _compare_rows(f"state {pair.input}={pair.output}", value, rows_axis, each, together, slack)


def _rows_axis(name: str, alone: Sequence[Array], together: Array) -> int:
    """The one axis that grows with the rows."""
    shape = alone[0].shape
    grown = [axis for axis, size in enumerate(shape) if together.ndim == len(shape) and together.shape[axis] != size]
    if len(grown) != 1 or shape[grown[0]] != 1 or together.shape[grown[0]] != len(alone):
        raise NotRows(
            f"output {name}: expected one axis to grow from 1 to {len(alone)} with the rows, got shapes {list(shape)} "
            f"and {list(together.shape)}"
        )
    return grown[0]


def _compare_rows(what: str, value: Value, axis: int, alone: Sequence[Array], together: Array, slack: float) -> None:
    for row, expected in enumerate(alone):
        if together.ndim <= axis or together.shape[axis] != len(alone):
            raise NotRows(f"{what}: expected {len(alone)} rows on axis {axis}, got {list(together.shape)}")
        apart = difference(value.dtype, expected, np.take(together, [row], axis))
        if not is_close(value.dtype, apart / slack):
            raise NotRows(f"{what}: expected each row as it is alone, got a difference of {apart:.3g}")
