"""Which batch runs next: a pure function of what is ready.

One call plans one batch for one runner. Steps go first, but not twice in a row while work of another kind waits: whole
sequences and encodes never wait for the steps to dry up, and a token that somebody waits for is delayed by at most one
bounded batch of them. Within a kind the oldest item is always taken, so nobody starves, and as long as anything is
ready something runs.

Age is a number, `WorkItem.key`: when the item became ready, less a head start for its priority. An item of low priority
is thus overtaken only by what comes within the head start, and ages by waiting.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

from export.manifest import GraphKind
from service.engine.cost import Costs
from service.engine.interface import RequestId

ReadyKind = Literal["step", "encode", "sequence", "run"]  # chunks are made of steps
PRIORITY_HEAD_START_S: Final = 0.5
_KINDS: Final[tuple[ReadyKind, ...]] = ("step", "encode", "sequence", "run")
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
    group: Hashable = None  # only equal ones share a run: sizes that are not padded, inputs that all rows share


@dataclass(frozen=True)
class ScheduleLimits:
    """Bounds of one batch, and what batches cost. A single item that exceeds a bound runs alone.

    Args:
        max_rows: Most rows of a step or chunk run.
        max_padded_tokens: Most rows times longest length of a sequence or encode run.
        max_padded_cells: Most rows times longest length times largest width. Measured: 8192 characters
            of a tagger (character LSTM of 48, word LSTM of 160) take 13 to 23 ms on one core.
        max_chunk: Most steps of a chunk run; 1: there is no chunk graph, or it does not pay.
        max_chunk_tokens: Most rows times steps of a chunk run, which bounds how long everybody else waits.
        min_rows: A batch that is shared out among idle runners is not cut into parts smaller than this.
        max_sequences: Most rows of a sequence or encode run.
        costs: What runs cost.
    """

    max_rows: int = 256
    max_padded_tokens: int = 1024
    max_padded_cells: int = 8192
    max_chunk: int = 1
    max_chunk_tokens: int = 256
    min_rows: int = 4
    max_sequences: int = 256
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")

    def window(self, num_runners: int = 1) -> int:
        """How many of the oldest steps `schedule` must see to share them out among runners, idle and running ones."""
        return self.max_rows * (num_runners if self.max_chunk == 1 else num_runners + 1)  # some have no backlog

    def cut(self, rows: int) -> "ScheduleLimits":
        """The same with at most so many rows in a run of any graph."""
        return replace(self, max_rows=min(rows, self.max_rows), max_sequences=min(rows, self.max_sequences))

    def admit(self, rows: int, length: int, width: int) -> bool:
        """Whether a padded batch of whole sequences of that size keeps all bounds."""
        tokens = rows * length
        return (
            rows <= self.max_sequences and tokens <= self.max_padded_tokens and tokens * width <= self.max_padded_cells
        )


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
    running: Iterable[tuple[GraphKind, int]] = (),
) -> Batch | None:
    """Plan one batch for one runner.

    Args:
        ready: What could run, "step", "encode", "sequence" and "run", smallest key first; see `ScheduleLimits.window`.
        limits: Bounds of the batch.
        last: The kind of the batch planned before, whichever runner got it; None if there was none.
        idle_runners: Runners with nothing to do, this one included. They share what is ready.
        running: Graph and rows of what each of the other runners runs. Who runs a batch of the same kind gets a share
            too, of what is ready and running together: who runs now comes back soon, and runners that take turns with
            equal batches get more done than one that takes all there is and one that takes what has come in since.

    Returns:
        The batch; None only if nothing is ready.
    """
    kind = _choose_kind(ready, last)
    if kind is None:
        return None
    items = ready[kind]
    kinds = ("step", "chunk") if kind == "step" else (kind,)
    alike = [rows for graph, rows in running if graph in kinds]
    num_rows = sum([item.rows for item in items]) + sum(alike)
    parts = max(1, min(idle_runners + len(alike), num_rows // limits.min_rows))  # nobody gets few
    share = -(-num_rows // parts)
    if kind == "step":
        return _steps(items, limits, min(share, limits.max_rows))
    chosen = _alike(items, limits, share)
    return Batch(kind, tuple([item.request for item in chosen]))


def _choose_kind(ready: Mapping[GraphKind, Sequence[WorkItem]], last: GraphKind | None) -> ReadyKind | None:
    waiting: list[ReadyKind] = [kind for kind in _KINDS if ready.get(kind)]
    if not waiting:
        return None
    if waiting[0] == "step" and (len(waiting) == 1 or last not in ("step", "chunk")):
        return "step"
    return min((kind for kind in waiting if kind != "step"), key=lambda kind: ready[kind][0].key)


def _steps(items: Sequence[WorkItem], limits: ScheduleLimits, most_rows: int) -> Batch:
    """The oldest and who else can take as many steps, for the number of steps that gets most done for its cost."""
    costs = limits.costs
    longest = min(items[0].length, limits.max_chunk)
    best, best_pace = Batch("step", ()), 0.0
    for length, cost in costs.steps.items():
        if length > longest:
            continue
        requests, rows = _oldest(items, limits, most_rows, length)
        pace = rows * length / (costs.run_s + costs.row_s * rows + cost(rows))
        if pace > best_pace:
            best, best_pace = Batch("chunk" if length > 1 else "step", tuple(requests), length), pace
    return best


def _oldest(
    items: Sequence[WorkItem], limits: ScheduleLimits, most_rows: int, length: int
) -> tuple[list[RequestId], int]:
    """As many as fit of those who can take so many steps, in order of age, and their rows."""
    if length > 1:
        most_rows = min(most_rows, limits.max_chunk_tokens // length)
    requests: list[RequestId] = []
    rows = widest = 0
    wanted = items[0].group
    for request, _, item_rows, item_length, width, _, group in items:
        if item_length < length or group != wanted:
            continue
        grown = rows + item_rows
        widest = max(widest, width)
        if requests and (grown > most_rows or grown * widest > limits.max_padded_cells):
            break
        requests.append(request)
        rows = grown
    return requests, rows


def _alike(items: Sequence[WorkItem], limits: ScheduleLimits, most_rows: int) -> list[WorkItem]:
    """The oldest and those of like size, for as long as each makes the batch get more done for its cost.

    A small batch thus takes almost anybody, a large one only who fits well: what is left out leads or joins a later
    batch. Where a row costs nearly as much in a small batch as in a large one, batches stay small and padding little.
    """
    group = items[0].group
    order = [(item.length, item.width, i) for i, item in enumerate(items[:ALIKE_WINDOW]) if item.group == group]
    oldest = order[0]
    order.sort()
    place = order.index(oldest)
    sides = [order[:place], order[:place:-1]]  # shorter and longer ones, the nearest last
    chosen = [0]
    rows, (length, width, _) = items[0].rows, oldest
    useful = rows * length * width  # cells that are no padding
    run_s, time_step_s = limits.costs.run_s, limits.costs.time_step
    pace = useful / (width * (run_s + length * time_step_s(rows)))  # useful cells a second, but for a constant
    while rows < most_rows and limits.admit(rows + 1, length, width):
        best_pace, best = -1.0, sides[0]
        for side in sides:
            if side:
                item_length, item_width, i = side[-1]
                item_rows = items[i].rows
                cells = (useful + item_rows * item_length * item_width) / max(width, item_width)
                new_pace = cells / (run_s + max(length, item_length) * time_step_s(rows + item_rows))
                if new_pace > best_pace:
                    best_pace, best = new_pace, side
        if best_pace < 0:
            break
        item_length, item_width, i = best.pop()
        grown = rows + items[i].rows, max(length, item_length), max(width, item_width)
        if best_pace >= pace and limits.admit(*grown):
            useful += items[i].rows * item_length * item_width
            rows, length, width = grown
            pace = best_pace
            chosen.append(i)
        elif item_width <= width:
            best.clear()  # its length is at fault, and those behind it are less alike still
        # else it is passed over: a long word among short ones stops nobody behind it
    return [items[i] for i in sorted(chosen)]
