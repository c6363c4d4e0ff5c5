"""Which work runs next: a pure function of what is ready.

A turn runs at most one batch of each kind, steps first: a token that somebody waits for is delayed by at most one
bounded batch of encodes and one of whole sequences, and those never wait for the steps to dry up. Within a kind the
oldest item is always taken, so nobody starves, and as long as anything is ready something runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from export.manifest import GraphKind
from service.engine.interface import RequestId

_ORDER: Final[tuple[GraphKind, ...]] = ("step", "encode", "sequence")
# What a time step costs whatever the number of rows, in rows. Measured: two LSTM layers of 512 take 1.3 ms with 1
# row and 2.1 ms with 16.
_STEP_COST_ROWS: Final = 8


# The oldest that are looked at for like ones: enough to find some, few enough for every turn.
_WINDOW: Final = 256


class WorkItem(NamedTuple):
    """What one request wants to run next."""

    request: RequestId
    graph: GraphKind
    rows: int  # of the batch: live hypotheses of a search, else 1
    length: int  # time steps of a row: positions of a source or a sequence, 1 for a step
    width: int = 1  # cells of a time step: characters of the longest word, source positions that a step attends to


@dataclass(frozen=True)
class ScheduleLimits:
    """Bounds of one batch. A single item that exceeds one runs alone.

    Args:
        max_rows: Most rows.
        max_padded_tokens: Most rows times longest length.
        max_padded_cells: Most rows times longest length times largest width. Measured: 8192 characters
            of a tagger (character LSTM of 48, word LSTM of 160) take 13 to 23 ms on one core.
    """

    max_rows: int = 256
    max_padded_tokens: int = 1024
    max_padded_cells: int = 8192

    def admit(self, rows: int, length: int, width: int) -> bool:
        """Whether a padded batch of that size keeps all bounds."""
        tokens = rows * length
        return rows <= self.max_rows and tokens <= self.max_padded_tokens and tokens * width <= self.max_padded_cells


class Batch(NamedTuple):
    """Requests to run together, in row order."""

    graph: GraphKind
    requests: tuple[RequestId, ...]


def schedule(ready: Sequence[WorkItem], limits: ScheduleLimits) -> list[Batch]:
    """Plan one turn.

    Args:
        ready: Everything that could run, the longest waiting first.
        limits: Bounds of each batch.

    Returns:
        At most one batch a kind, in the order in which to run them; empty only if nothing is ready.
    """
    by_graph: dict[GraphKind, list[WorkItem]] = {graph: [] for graph in _ORDER}
    for item in ready:
        by_graph[item.graph].append(item)
    plan = []
    for graph in _ORDER:
        if items := by_graph[graph]:
            chosen = _oldest(items, limits) if graph == "step" else _alike(items, limits)
            plan.append(Batch(graph, tuple(item.request for item in chosen)))
    return plan


def _oldest(items: list[WorkItem], limits: ScheduleLimits) -> list[WorkItem]:
    """As many as fit, in order of age."""
    rows = width = 0
    for count, item in enumerate(items):
        rows, width = rows + item.rows, max(width, item.width)
        if count > 0 and (rows > limits.max_rows or rows * width > limits.max_padded_cells):
            return items[:count]
    return items


@dataclass(slots=True)
class _Growing:
    """A batch and what it would cost."""

    rows: int
    length: int
    width: int
    useful: int  # cells that are no padding

    @classmethod
    def of(cls, item: WorkItem) -> "_Growing":
        return cls(item.rows, item.length, item.width, item.rows * item.length * item.width)

    @property
    def efficiency(self) -> float:
        return self.useful / (self.length * self.width * (self.rows + _STEP_COST_ROWS))

    def with_also(self, item: WorkItem) -> "_Growing":
        return _Growing(
            self.rows + item.rows,
            max(self.length, item.length),
            max(self.width, item.width),
            self.useful + item.rows * item.length * item.width,
        )


def _alike(items: list[WorkItem], limits: ScheduleLimits) -> list[WorkItem]:
    """The oldest and those of like size, for as long as each makes the batch more efficient.

    Efficiency is useful cells over cost, and a time step of the batch costs its rows plus a constant. A small batch
    thus takes almost anybody, a large one only who fits well: what is left out leads or joins a later batch.
    """
    by_length = sorted(range(min(len(items), _WINDOW)), key=lambda i: (items[i].length, items[i].width, i))
    place = by_length.index(0)
    # From the oldest outwards. Who does not fit is passed over: a long word among short ones stops nobody behind it.
    sides = [by_length[:place], by_length[:place:-1]]
    chosen, batch = [0], _Growing.of(items[0])
    while limits.admit(batch.rows + 1, batch.length, batch.width):
        options = [(batch.with_also(items[side[-1]]), side) for side in sides if side]
        if not options:
            break
        grown, side = max(options, key=lambda option: option[0].efficiency)
        nearest = side.pop()
        if grown.efficiency >= batch.efficiency and limits.admit(grown.rows, grown.length, grown.width):
            batch = grown
            chosen.append(nearest)
    return [items[i] for i in sorted(chosen)]
