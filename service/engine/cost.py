"""What runs of the graphs cost: measured points with straight lines between them.

Only ratios matter to the schedule, so that figures of another machine of the same kind still plan well. Those of the
machine at hand are measured when a model is loaded (`service.measuring.profile`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final


class RowCost:
    """Seconds as a function of the rows of a batch.

    Args:
        points: Seconds by number of rows, at least one; with only one they are in proportion to the rows.

    Raises:
        ValueError: Rows or seconds are not above 0.
    """

    __slots__ = ("_slope", "_table")

    def __init__(self, points: Mapping[int, float]) -> None:
        if not points or min(points) < 1 or not min(points.values()) > 0:
            raise ValueError(f"points: expected seconds above 0 for 1 row and more, got {dict(points)}")
        known = sorted(points.items())
        first_rows, first_s = known[0]
        # Fewer rows than were measured cost no more than the fewest measured.
        table = [first_s] * (first_rows + 1)
        slope = first_s / first_rows
        for (low, low_s), (high, high_s) in pairwise(known):
            slope = (high_s - low_s) / (high - low)
            table.extend(low_s + slope * (rows - low) for rows in range(low + 1, high + 1))
        self._table = tuple(table)
        self._slope = max(slope, 0.0)  # a last point that is lower by chance does not make large batches free

    def __call__(self, rows: int) -> float:
        """Seconds of so many rows; beyond the last point as between the last two."""
        table = self._table
        return table[rows] if rows < len(table) else table[-1] + self._slope * (rows - len(table) + 1)


# Measured with one thread of a machine with AVX-512 (see docs/log.md): two LSTM layers of 512 with 10,000 outputs a
# step, and the bidirectional tagger of 256 units a word.
_STEP_MS: Final = {1: 1.25, 2: 1.53, 4: 1.76, 8: 2.46, 16: 3.80, 32: 6.60, 64: 12.05, 128: 23.7, 256: 46.6}
_WORD_MS: Final = {1: 0.100, 2: 0.130, 4: 0.225, 8: 0.425, 16: 0.84, 32: 1.66, 64: 3.40}


_STEP: Final = RowCost({rows: ms / 1e3 for rows, ms in _STEP_MS.items()})
_WORD: Final = RowCost({rows: ms / 1e3 for rows, ms in _WORD_MS.items()})


@dataclass(frozen=True)
class Costs:
    """What the schedule weighs.

    Args:
        run_s: Of any run, whatever is in it: to plan, bind and publish it.
        row_s: Of a row of a step or chunk run, whatever its steps: to feed it and to settle what came of it.
        steps: Of a run by its time steps: 1 is the step graph's, powers of two are the chunk graph's.
        time_step: Of each padded time step of a sequence or encode run.
    """

    run_s: float = 300e-6
    row_s: float = 10e-6
    steps: Mapping[int, RowCost] = field(default_factory=lambda: {1: _STEP})
    time_step: RowCost = _WORD

    def __post_init__(self) -> None:
        for name, value in (("run_s", self.run_s), ("row_s", self.row_s)):
            if not value >= 0:
                raise ValueError(f"{name}: expected at least 0 s, got {value}")
        if 1 not in self.steps or any(steps < 1 or steps & (steps - 1) for steps in self.steps):
            raise ValueError(f"steps: expected 1 and powers of two, got {sorted(self.steps)}")
