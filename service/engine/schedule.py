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


class WorkItem(NamedTuple):
    """What one request wants to run next."""

    request: RequestId
    graph: GraphKind
    rows: int  # of the batch: live hypotheses of a search, else 1
    length: int  # time steps of a row: positions of a source or a sequence, 1 for a step


@dataclass(frozen=True)
class ScheduleLimits:
    """Bounds of one batch. A single item that exceeds one runs alone.

    Args:
        max_rows: Most rows.
        max_padded_tokens: Most rows times longest length.
    """

    max_rows: int = 256
    max_padded_tokens: int = 1024


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
    rows = 0
    for count, item in enumerate(items):
        rows += item.rows
        if rows > limits.max_rows and count > 0:
            return items[:count]
    return items


def _alike(items: list[WorkItem], limits: ScheduleLimits) -> list[WorkItem]:
    """The oldest and those of like length, for as long as each makes the batch more efficient.

    Efficiency is useful tokens over cost, and a time step of the batch costs its rows plus a constant. A small batch
    thus takes almost anybody, a large one only who fits well: what is left out leads or joins a later batch.
    """
    by_length = sorted(range(len(items)), key=lambda i: (items[i].length, i))
    first = last = by_length.index(0)  # the batch is by_length[first : last + 1]
    rows, useful, longest = items[0].rows, items[0].rows * items[0].length, items[0].length

    def gain(neighbour: int) -> tuple[float, WorkItem | None]:
        """Efficiency of the batch with one more item; 0 where it does not fit."""
        if not 0 <= neighbour < len(by_length):
            return 0.0, None
        item = items[by_length[neighbour]]
        num_rows, length = rows + item.rows, max(longest, item.length)
        if num_rows > limits.max_rows or num_rows * length > limits.max_padded_tokens:
            return 0.0, None
        return (useful + item.rows * item.length) / (length * (num_rows + _STEP_COST_ROWS)), item

    while True:
        shorter, longer = gain(first - 1), gain(last + 1)
        efficiency, item = max(shorter, longer, key=lambda option: option[0])
        if item is None or efficiency < useful / (longest * (rows + _STEP_COST_ROWS)):
            break
        rows, useful, longest = rows + item.rows, useful + item.rows * item.length, max(longest, item.length)
        if item is shorter[1]:
            first -= 1
        else:
            last += 1
    return [items[i] for i in sorted(by_length[first : last + 1])]
