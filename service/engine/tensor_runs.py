"""Runs of imported models, which may break on what one caller sends: then only that caller is told so.

What a model of ours is fed was checked at the door. An imported model may fail on values (an index beyond its table)
that nobody but the model knows of, or go on for ever with them. A batch that fails is run again by halves, down to the
requests that cannot be run; what had been written to the states of its rows is taken back first, so nobody's step is
taken twice.

Once a run was ended for its time, pieces of the batch get little of it, so that those beside an endless request need
not wait long. A request that takes longer by itself is tried again after all others, with as much time as any run has.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from export.manifest import GraphKind
from service.engine.run_watch import RunWatch
from service.engine.runs import Arrays, GraphRunner, Part, Plan
from service.engine.tasks.task import Work
from service.engine.tasks.tensors import RunLayout
from service.engine.tensor_batch import tensor_feeds
from service.errors import InternalFailure, InvalidInput, ServiceError, ShuttingDown
from service.runtime.errors import RunEnded, is_device_lost

_BETWEEN_LINES_S: Final = 1.0  # of the log, however many runs fail
_LEAST_S: Final = 1.0  # that a piece of a batch may take, however little `max_run_s` is
_QUICK: Final = 0.1  # of `max_run_s`, that a piece may take once a run was ended
_RETRIES: Final = 3.0  # times `max_run_s`, after which no other piece is begun
_log = logging.getLogger(__name__)


class TensorRuns:
    """See the module docstring; implements `Runs`.

    Args:
        runner: Runs the graph.
        max_run_s: Longest that a run may take.
        clock: Seconds.
    """

    def __init__(self, runner: GraphRunner, max_run_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner, self._max_run_s, self._clock = runner, max_run_s, clock
        self._name = runner.manifest.name
        self._time_axes = RunLayout(runner.manifest).input_axes
        self._watch = RunWatch(self._name, runner.end_run, clock)
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

    def run(self, plan: Plan, lane: int) -> Sequence[Part]:
        """Run a batch; what it breaks on is found by halves. See `Runs`."""
        works, steps = plan.works, plan.graph == "step"
        # Where rows cannot be indexed, saving them would copy the whole pool: then all of the batch fail with one.
        apart = len(works) > 1 and (not steps or self._runner.indexes_rows)
        rows = [row for work in works for row in getattr(work, "write_rows", ())] if steps and apart else []
        saved = self._runner.read_rows(rows) if rows else {}
        try:
            return (Part(works, self._run(plan.graph, plan.inputs, plan.outputs, lane, self._max_run_s)),)
        except Exception as error:
            if is_device_lost(error):
                raise
            self._complain(error, len(works))
            if not apart:
                return (Part(works, self._told(error, alone=len(works) == 1)),)
            return self._by_halves(plan, lane, rows, saved, isinstance(error, RunEnded))

    def _by_halves(self, plan: Plan, lane: int, rows: Sequence[int], saved: Arrays, ended: bool) -> list[Part]:
        """Run the pieces of a batch that failed.

        Args:
            plan: The batch.
            lane: Where.
            rows: That its works write, of a step.
            saved: What was in them before the batch.
            ended: Whether it was ended for its time.
        """

        def take_back(piece: range) -> None:
            if rows:
                theirs = {name: values[piece.start : piece.stop] for name, values in saved.items()}
                self._runner.write_rows(rows[piece.start : piece.stop], theirs)

        whole = range(len(plan.works))
        take_back(whole)
        parts: list[Part] = []
        pieces, slow = _halves(whole), list[range]()  # slow: single works, each of which was ended once
        full_s = max(self._max_run_s, _LEAST_S)
        until_s = self._clock() + _RETRIES * full_s
        while pieces or slow:
            last = not pieces
            piece = (pieces or slow).pop(0)
            some = plan.works[piece.start : piece.stop]
            if self._watch.hurried or self._clock() > until_s:
                parts.append(Part(some, self._told(RunEnded(), alone=False)))
                continue
            limit_s = max(_QUICK * full_s, _LEAST_S) if ended and not last else full_s
            try:
                inputs = tensor_feeds(plan.graph, some, self._time_axes)
                got = self._run(plan.graph, inputs, plan.outputs, lane, limit_s)
            except Exception as error:
                if is_device_lost(error):
                    raise
                take_back(piece)
                ended = ended or isinstance(error, RunEnded)
                if len(piece) > 1:
                    pieces[:0] = _halves(piece)
                elif isinstance(error, RunEnded) and not last:
                    slow.append(piece)
                else:
                    parts.append(Part(some, self._told(error, alone=True)))
            else:  # the next run in the lane overwrites them
                parts.append(Part(some, {name: array.copy() for name, array in got.items()}))
        return parts

    def _run(self, graph: GraphKind, inputs: Arrays, outputs: Sequence[str], lane: int, limit_s: float) -> Arrays:
        self._watch.begin(lane, limit_s)
        try:
            return self._runner.run(graph, inputs, outputs, lane)
        finally:
            self._watch.end(lane)

    def _told(self, error: Exception, alone: bool) -> ServiceError:
        """What callers are told of a failed run.

        Args:
            error: How it failed.
            alone: Whether only one request was in it, and it had all of its time.
        """
        if self._watch.hurried:
            return ShuttingDown("the service is shutting down and ended the run of the model on this request")
        if isinstance(error, RunEnded):
            if alone:
                wanted = f"values with which a run ends within {self._max_run_s:g} s"
                return InvalidInput("inputs", wanted, "some with which it does not")
            return InternalFailure("the run of the model on this request and others took too long and was ended")
        if alone:
            return InvalidInput("inputs", "values that the model can be run on", "some on which it fails")
        return InternalFailure("the model failed on this request")

    def _complain(self, error: Exception, num_works: int) -> None:
        """One line, and not for each: callers decide how many there are."""
        now_s = self._clock()
        if now_s >= self._silent_until_s:
            self._silent_until_s = now_s + _BETWEEN_LINES_S
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            if isinstance(error, RunEnded) and not self._watch.hurried:
                reason = f"it took longer than {self._max_run_s:g} s and was ended"
            _log.warning("model %s: a run of %d requests failed: %s", self._name, num_works, reason)


def _halves(piece: range) -> list[range]:
    middle = (piece.start + piece.stop) // 2
    return [range(piece.start, middle), range(middle, piece.stop)]
