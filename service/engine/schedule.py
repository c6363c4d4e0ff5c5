"""Which batch runs next: a pure function of what is ready.

One call plans one batch for one runner. Steps go first, but not twice in a row while work of another kind waits: whole
sequences and encodes never wait for the steps to dry up, and a token that somebody waits for is delayed by at most one
bounded batch of them. Within a kind the oldest item is always taken, so nobody starves, and as long as anything is
ready something runs.

Age is a number, `WorkItem.key`: when the item became ready, less a head start for its priority. An item of low priority
is thus overtaken only by what comes within the head start, and ages by waiting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from export.manifest import GraphKind
from service.engine.interface import RequestId

ReadyKind = Literal["step", "encode", "sequence"]  # chunks are made of steps
PRIORITY_HEAD_START_S: Final = 0.5
_KINDS: Final[tuple[ReadyKind, ...]] = ("step", "encode", "sequence")
# The oldest that are looked at for like ones: enough to find some, few enough for every turn.
ALIKE_WINDOW: Final = 256


class WorkItem(NamedTuple):
    """What one request wants to run next."""

    request: RequestId
    graph: GraphKind  # never "chunk": a step whose length is above 1 may run as one
    rows: int  # of the batch: live hypotheses of a search, else 1
    length: int  # time steps of a row: positions of a source or a sequence, inputs that a session could take now
    width: int = 1  # cells of a time step: characters of the longest word, source positions that a step attends to
    key: float = 0.0  # smaller goes first: ready_since_s - PRIORITY_HEAD_START_S * priority


@dataclass(frozen=True)
class ScheduleLimits:
    """Bounds of one batch, and what batches cost. A single item that exceeds a bound runs alone.

    The costs are counted in rows: what one more row of a large batch costs a time step. A run of B rows and T steps
    costs `run_cost + row_cost * B + T * (step_cost + B)`.

    Args:
        max_rows: Most rows.
        max_padded_tokens: Most rows times longest length of a sequence or encode run.
        max_padded_cells: Most rows times longest length times largest width. Measured: 8192 characters
            of a tagger (character LSTM of 48, word LSTM of 160) take 13 to 23 ms on one core.
        max_chunk: Most steps of a chunk run; 1: there is no chunk graph, or it does not pay.
        max_chunk_tokens: Most rows times steps of a chunk run, which bounds how long everybody else waits.
        min_rows: A batch that is shared out among idle runners is not cut into parts smaller than this.
        run_cost: Of a run of the step or chunk graph whatever its size, in rows.
        row_cost: Of a row of a step or chunk run whatever its steps, in rows.
        step_cost: Of a time step whatever the number of rows, in rows. Measured: two LSTM layers of 512 take 1.3 ms
            with 1 row and 2.1 ms with 16.
    """

    max_rows: int = 256
    max_padded_tokens: int = 1024
    max_padded_cells: int = 8192
    max_chunk: int = 1
    max_chunk_tokens: int = 256
    min_rows: int = 4
    run_cost: float = 4.0
    row_cost: float = 0.0
    step_cost: float = 8.0

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_padded_tokens", "max_padded_cells", "max_chunk", "max_chunk_tokens", "min_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("run_cost", "row_cost", "step_cost"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")

    def window(self, idle_runners: int = 1) -> int:
        """How many of the oldest steps `schedule` must see to share them out, and to find those with a backlog."""
        return self.max_rows * (idle_runners if self.max_chunk == 1 else idle_runners + 1)

    def admit(self, rows: int, length: int, width: int) -> bool:
        """Whether a padded batch of that size keeps all bounds."""
        tokens = rows * length
        return rows <= self.max_rows and tokens <= self.max_padded_tokens and tokens * width <= self.max_padded_cells


class Batch(NamedTuple):
    """Requests to run together, in row order."""

    graph: GraphKind
    requests: tuple[RequestId, ...]
    length: int = 0  # steps that each takes: T of a chunk, 1 of a step; 0 of whole sequences


def schedule(
    ready: Mapping[GraphKind, Sequence[WorkItem]],
    limits: ScheduleLimits,
    last: GraphKind | None,
    idle_runners: int = 1,
) -> Batch | None:
    """Plan one batch for one runner.

    Args:
        ready: What could run, "step", "encode" and "sequence", smallest key first; see `ScheduleLimits.window`.
        limits: Bounds of the batch.
        last: The kind of the batch planned before, whichever runner got it; None if there was none.
        idle_runners: Runners with nothing to do, this one included. They share what is ready.

    Returns:
        The batch; None only if nothing is ready.
    """
    kind = _choose_kind(ready, last)
    if kind is None:
        return None
    items = ready[kind]
    if kind == "step":
        return _steps(items, limits, _share(sum(item.rows for item in items), limits, idle_runners))
    chosen = _alike(items, limits, _share(len(items), limits, idle_runners))
    return Batch(kind, tuple([item.request for item in chosen]))


def _choose_kind(ready: Mapping[GraphKind, Sequence[WorkItem]], last: GraphKind | None) -> ReadyKind | None:
    waiting: list[ReadyKind] = [kind for kind in _KINDS if ready.get(kind)]
    if not waiting:
        return None
    if waiting[0] == "step" and (len(waiting) == 1 or last not in ("step", "chunk")):
        return "step"
    return min((kind for kind in waiting if kind != "step"), key=lambda kind: ready[kind][0].key)


def _share(num_rows: int, limits: ScheduleLimits, idle_runners: int) -> int:
    """Rows that this runner takes so that the other idle ones get as many, none of them few."""
    parts = max(1, min(idle_runners, num_rows // limits.min_rows))
    return min(limits.max_rows, -(-num_rows // parts))


def _steps(items: Sequence[WorkItem], limits: ScheduleLimits, most_rows: int) -> Batch:
    """The oldest and who else can take as many steps, for the number of steps that gets most done for its cost."""
    best = Batch("step", (), 1)
    best_value = 0.0
    length = 1
    while length <= min(items[0].length, limits.max_chunk):
        requests, rows = _oldest(items, limits, most_rows, length)
        cost = limits.run_cost + limits.row_cost * rows + length * (limits.step_cost + rows)
        if rows * length > best_value * cost:
            best = Batch("chunk" if length > 1 else "step", tuple(requests), length)
            best_value = rows * length / cost
        length *= 2
    return best


def _oldest(
    items: Sequence[WorkItem], limits: ScheduleLimits, most_rows: int, length: int
) -> tuple[list[RequestId], int]:
    """As many as fit of those who can take so many steps, in order of age, and their rows."""
    if length > 1:
        most_rows = min(most_rows, limits.max_chunk_tokens // length)
    requests: list[RequestId] = []
    rows = widest = 0
    for request, _, item_rows, item_length, width, _ in items:
        if item_length < length:
            continue
        grown = rows + item_rows
        widest = max(widest, width)
        if requests and (grown > most_rows or grown * widest > limits.max_padded_cells):
            break
        requests.append(request)
        rows = grown
    return requests, rows


@dataclass(slots=True)
class _Growing:
    """A batch and what it would cost."""

    rows: int
    length: int
    width: int
    useful: int  # cells that are no padding
    step_cost: float

    @property
    def efficiency(self) -> float:
        return self.useful / (self.length * self.width * (self.rows + self.step_cost))

    def with_also(self, item: WorkItem) -> "_Growing":
        return _Growing(
            self.rows + item.rows,
            max(self.length, item.length),
            max(self.width, item.width),
            self.useful + item.rows * item.length * item.width,
            self.step_cost,
        )


def _alike(items: Sequence[WorkItem], limits: ScheduleLimits, most_rows: int) -> list[WorkItem]:
    """The oldest and those of like size, for as long as each makes the batch more efficient.

    Efficiency is useful cells over cost, and a time step of the batch costs its rows plus a constant. A small batch
    thus takes almost anybody, a large one only who fits well: what is left out leads or joins a later batch.
    """
    by_length = sorted(range(min(len(items), ALIKE_WINDOW)), key=lambda i: (items[i].length, items[i].width, i))
    place = by_length.index(0)
    # From the oldest outwards. Who does not fit is passed over: a long word among short ones stops nobody behind it.
    sides = [by_length[:place], by_length[:place:-1]]
    chosen, batch = [0], _Growing(0, 0, 0, 0, limits.step_cost).with_also(items[0])
    while batch.rows < most_rows and limits.admit(batch.rows + 1, batch.length, batch.width):
        options = [(batch.with_also(items[side[-1]]), side) for side in sides if side]
        if not options:
            break
        grown, side = max(options, key=lambda option: option[0].efficiency)
        nearest = side.pop()
        if grown.efficiency >= batch.efficiency and limits.admit(grown.rows, grown.length, grown.width):
            batch = grown
            chosen.append(nearest)
    return [items[i] for i in sorted(chosen)]
