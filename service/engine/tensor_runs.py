"""Runs of imported models, which may break on what one caller sends: then only that caller is told so.

What a model of ours is fed was checked at the door. An imported model may fail on values (an index beyond its table)
that nobody but the model knows of, or go on for ever with them. A batch that fails is run again by halves, down to the
requests that cannot be run; what had been written to the states of its rows is taken back first, so nobody's step is
taken twice.

Once a run was ended for its time, each request is run by itself and gets little of it, so that those beside an endless
one are answered within moments. Who takes longer is run again after all others were answered, with more and more time,
until that is as much as any run has or what may be spent so is spent (`Patience`).
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from export.manifest import GraphKind
from service.engine.patience import Patience
from service.engine.run_watch import RunWatch
from service.engine.runs import Arrays, Deliver, GraphRunner, Part, Plan
from service.engine.tasks.task import Work
from service.engine.tasks.tensors import RunLayout
from service.engine.tensor_batch import tensor_feeds
from service.errors import InternalFailure, InvalidInput, ServiceError, ShuttingDown
from service.runtime.errors import RunEnded, is_device_lost

_BETWEEN_LINES_S: Final = 1.0  # of the log, however many runs fail
_QUICK: Final = 2.0  # times `max_run_s`, after which the other requests of a batch get less than a short time
_MORE: Final = 10.0  # times the time that slow requests had last
_BUSY: Final = 0.5  # of the time that a run had, that its thread had a core; else it is run again
_log = logging.getLogger(__name__)


class _Pieces(NamedTuple):
    """A batch that failed: where it ran, the rows that its works write, of a step, and what was in them before."""

    plan: Plan
    lane: int
    rows: Sequence[int]
    saved: Arrays

    @property
    def whole(self) -> range:
        """All of its works."""
        return range(len(self.plan.works))

    def works(self, piece: range) -> Sequence[Work]:
        """Some of them."""
        return self.plan.works[piece.start : piece.stop]


class TensorRuns:
    """See the module docstring; implements `Runs`.

    Args:
        runner: Runs the graph.
        max_run_s: Longest that a run may take.
        clock: Seconds.
        core_clock: Seconds that the calling thread has had a core.
    """

    def __init__(
        self,
        runner: GraphRunner,
        max_run_s: float,
        clock: Callable[[], float] = time.monotonic,
        core_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._runner, self._max_run_s, self._clock, self._core_clock = runner, max_run_s, clock, core_clock
        self._name = runner.manifest.name
        self._time_axes = RunLayout(runner.manifest).input_axes
        self._watch = RunWatch(self._name, runner.end_run, clock)
        self._patience = Patience(max_run_s, clock)
        self._silent_until_s = clock()

    def feeds(self, graph: GraphKind, works: Sequence[Work], num_rows: int) -> Arrays:
        """Inputs of a batch; see `Runs`. Its rows are never padded."""
        return tensor_feeds(graph, works, self._time_axes)

    def start(self) -> None:
        """Begin to watch over runs."""
        self._watch.start()

    def end(self, lanes: Iterable[int]) -> None:
        """End what runs in any lane; see `Runs`."""
        self._watch.hurry()

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()

    def run(self, plan: Plan, lane: int, deliver: Deliver) -> Sequence[Part]:
        """Run a batch; what it breaks on is found by halves, or one by one. See `Runs`."""
        works, steps, wary = plan.works, plan.graph == "step", self._patience.wary
        # Where rows cannot be indexed, saving them would copy the whole pool: then all of the batch fail with one.
        apart = (len(works) > 1 or wary) and (not steps or self._runner.indexes_rows)
        rows = [row for work in works for row in getattr(work, "write_rows", ())] if steps and apart else []
        saved = self._runner.read_rows(rows) if rows else {}
        limit_s = self._patience.short_s(plan.graph) if apart and wary else self._max_run_s
        try:
            return (Part(works, self._run(plan.graph, plan.inputs, plan.outputs, lane, limit_s)),)
        except Exception as error:
            if is_device_lost(error):
                raise
            self._complain(error, len(works), limit_s)
            if len(works) == 1 and not (isinstance(error, RunEnded) and limit_s < self._max_run_s):
                return (Part(works, self._told(error, limit_s)),)
            if not apart:
                return (Part(works, self._told(error)),)
            pieces = _Pieces(plan, lane, rows, saved)
            self._take_back(pieces, pieces.whole)
            return self._in_pieces(pieces, error, deliver)

    def _in_pieces(self, batch: _Pieces, error: Exception, deliver: Deliver) -> list[Part]:
        """Run the pieces of a batch that failed; see the module docstring."""
        parts, slow = list[Part](), list[range]()
        graph, tried_s = batch.plan.graph, self._clock()
        pieces = _ones(batch.whole) if isinstance(error, RunEnded) else _halves(batch.whole)
        limit_s = self._max_run_s
        while pieces:
            piece = pieces.pop(0)
            if self._patience.wary:
                limit_s = self._patience.short_s(graph, self._clock() > tried_s + _QUICK * self._max_run_s)
            began_s = self._core_clock()
            got = self._try(batch, piece, limit_s)
            if isinstance(got, RunEnded) and self._core_clock() - began_s < _BUSY * limit_s < _BUSY * self._max_run_s:
                got = self._try(batch, piece, limit_s)  # others had the cores: nothing is known of it
            if not isinstance(got, Exception):
                parts.append(got)
            elif len(piece) > 1:
                pieces[:0] = _ones(piece) if isinstance(got, RunEnded) else _halves(piece)
            elif isinstance(got, RunEnded) and limit_s < self._max_run_s:
                slow.append(piece)
            else:
                parts.append(Part(batch.works(piece), self._told(got, limit_s)))
        if slow and not self._watch.hurried and self._patience.open_purse():
            try:
                deliver(parts)
                return self._slowly(batch, slow, limit_s)
            finally:
                self._patience.close_purse()
        return parts + [Part(batch.works(piece), self._told(RunEnded(), limit_s)) for piece in slow]

    def _slowly(self, batch: _Pieces, slow: Sequence[range], limit_s: float) -> list[Part]:
        """Run requests one by one that did not end within some seconds; most of them first that need little more."""
        parts, more = list[Part](), True
        while slow:
            last_s, limit_s, slower = limit_s, min(_MORE * limit_s, self._max_run_s), list[range]()
            for piece in slow:
                if not more or self._watch.hurried:
                    parts.append(Part(batch.works(piece), self._told(RunEnded(), last_s)))
                    continue
                began_s = self._clock()
                got = self._try(batch, piece, limit_s)
                more = self._patience.spend(self._clock() - began_s)
                if not isinstance(got, Exception):
                    parts.append(got)
                elif isinstance(got, RunEnded) and limit_s < self._max_run_s:
                    slower.append(piece)
                else:
                    parts.append(Part(batch.works(piece), self._told(got, limit_s)))
            slow = slower
        return parts

    def _try(self, batch: _Pieces, piece: range, limit_s: float) -> Part | Exception:
        """Run a piece of a batch, or take back what it has done and say why."""
        if self._watch.hurried:
            return RunEnded()
        plan, works = batch.plan, batch.works(piece)
        try:
            inputs = tensor_feeds(plan.graph, works, self._time_axes)
            got = self._run(plan.graph, inputs, plan.outputs, batch.lane, limit_s)
        except Exception as error:
            if is_device_lost(error):
                raise
            self._take_back(batch, piece)
            return error
        return Part(works, {name: array.copy() for name, array in got.items()})  # the next run overwrites them

    def _take_back(self, batch: _Pieces, piece: range) -> None:
        if batch.rows:
            theirs = {name: values[piece.start : piece.stop] for name, values in batch.saved.items()}
            self._runner.write_rows(batch.rows[piece.start : piece.stop], theirs)

    def _run(self, graph: GraphKind, inputs: Arrays, outputs: Sequence[str], lane: int, limit_s: float) -> Arrays:
        began_s = self._clock()
        self._watch.begin(lane, limit_s)
        try:
            got = self._runner.run(graph, inputs, outputs, lane)
        except RunEnded:
            self._patience.beware()
            raise
        finally:
            self._watch.end(lane)
        self._patience.note(graph, self._clock() - began_s)
        return got

    def _told(self, error: Exception, limit_s: float | None = None) -> ServiceError:
        """What callers are told of a failed run.

        Args:
            error: How it failed.
            limit_s: The time that it had, if only one request was in it.
        """
        if self._watch.hurried:
            return ShuttingDown("the service is shutting down and ended the run of the model on this request")
        if isinstance(error, RunEnded):
            if limit_s is not None:
                wanted = f"values with which a run ends within {limit_s:.3g} s"
                return InvalidInput("inputs", wanted, "some with which it does not")
            return InternalFailure("the run of the model on this request and others took too long and was ended")
        if limit_s is not None:
            return InvalidInput("inputs", "values that the model can be run on", "some on which it fails")
        return InternalFailure("the model failed on this request")

    def _complain(self, error: Exception, num_works: int, limit_s: float) -> None:
        """One line, and not for each: callers decide how many there are."""
        now_s = self._clock()
        if now_s >= self._silent_until_s:
            self._silent_until_s = now_s + _BETWEEN_LINES_S
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            if isinstance(error, RunEnded) and not self._watch.hurried:
                reason = f"it took longer than {limit_s:.3g} s and was ended"
            _log.warning("model %s: a run of %d requests failed: %s", self._name, num_works, reason)


def _halves(piece: range) -> list[range]:
    middle = (piece.start + piece.stop) // 2
    return [range(piece.start, middle), range(middle, piece.stop)]


def _ones(piece: range) -> list[range]:
    return [range(place, place + 1) for place in piece]
