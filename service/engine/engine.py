"""The engine: one thread a model, and one loop that fits on a screen.

    turn = take what arrived -> expire deadlines -> schedule -> for each batch: bind -> run -> decide -> publish

The thread owns the roster (tasks, slots, memory) and the runner. Others talk to it through the inbox and hear from
it through `publish`, which is called on the engine thread with lists of events.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy.typing as npt

from export.manifest import GraphKind, Manifest
from service.engine.batch import feeds, row_inputs
from service.engine.inbox import Inbox
from service.engine.interface import EngineStats, Publish, Request, RequestId
from service.engine.pace import Pace
from service.engine.roster import Roster
from service.engine.schedule import Batch, ScheduleLimits, schedule
from service.engine.slots import NUM_RESERVED
from service.engine.tasks.task import Outputs
from service.errors import InternalFailure, ShuttingDown

_log = logging.getLogger(__name__)
_IDLE_WAIT_S: Final = 5.0  # an idle engine wakes this often and checks its books
_JOIN_S: Final = 30.0  # the longest that one run of a graph may take when closing


class GraphRunner(Protocol):
    """What the engine needs of a runner; `service.runner.Runner` is one, and tests have others."""

    manifest: Manifest
    num_slots: int
    num_memory_rows: int

    def run(
        self, kind: GraphKind, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Run a graph once, updating the pools. `log_probs` is good until the next run."""


@dataclass(frozen=True)
class EngineLimits:
    """Bounds of one engine; what runs is bounded by the runner's slots and memory rows.

    Args:
        max_sessions: Most sessions open at a time, of a model that can be stepped by callers. A session keeps its slot
            for as long as its caller likes, so some must be left for requests, which are short.
        max_waiting: Most requests for new work that wait to run.
        batch: Bounds of one batch.
    """

    max_sessions: int
    max_waiting: int = 1024
    batch: ScheduleLimits = field(default_factory=ScheduleLimits)


class Engine:
    """Serves one model; implements `EngineDoor`.

    Args:
        runner: Runs the graphs; the engine owns it from now on.
        limits: Bounds.
        publish: Takes events, on the engine thread; must not block.
        on_stopped: Called once on the engine thread, after the last events, if a bug ended the engine.
        clock: Seconds, on which deadlines are told.

    Attributes:
        failed: Whether a bug ended the engine. It takes nothing any more.
    """

    def __init__(
        self,
        runner: GraphRunner,
        limits: EngineLimits,
        publish: Publish,
        on_stopped: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        most = runner.num_slots - NUM_RESERVED - 1
        if not 0 <= limits.max_sessions <= most or limits.max_waiting < 1:
            raise ValueError(f"limits: expected max_sessions at most {most} and max_waiting at least 1, got {limits}")
        self.failed = False
        self._runner, self._limits, self._publish_events, self._clock = runner, limits, publish, clock
        self._on_stopped = on_stopped
        manifest = runner.manifest
        self._step_inputs = row_inputs(manifest.graphs["step"]) if "step" in manifest.graphs else {}
        self._pace = Pace()
        self._inbox = Inbox(limits.max_waiting, limits.max_waiting + runner.num_slots, self._pace.retry_after_s)
        self._roster = Roster(
            manifest, runner.num_slots, runner.num_memory_rows, limits.max_sessions, self._pace.retry_after_s
        )
        self._closing = False
        self._count()
        self._thread = threading.Thread(target=self._live, name=f"engine-{manifest.name}", daemon=True)

    # -------------------------------------------------------------------------------------- the door, from any thread

    def submit(self, request: Request) -> None:
        """Admit a request; see `EngineDoor`."""
        self._inbox.put(request)

    def cancel(self, request: RequestId) -> None:
        """Stop a request within one step; see `EngineDoor`."""
        self._inbox.cancel(request)

    def stats(self) -> EngineStats:
        """Counts as of the last turn."""
        return EngineStats(*self._counts)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the batch that runs; what has not finished fails with ShuttingDown."""
        self._closing = True
        self._inbox.close(_shut_down)
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                _log.error("engine %s: still in a run after %.0f s", self._runner.manifest.name, _JOIN_S)

    def check_integrity(self) -> None:
        """Prove the books; for the engine thread, and for tests after `close`."""
        self._roster.check_integrity()

    # ------------------------------------------------------------------------------------------- the engine thread

    def _live(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except Exception:
            _log.critical("engine %s: stopped by a bug", self._runner.manifest.name, exc_info=True)
            self.failed = True
        reason = _broken if self.failed else _shut_down
        self._inbox.close(reason)
        for request in self._inbox.take(0)[0]:
            self._roster.admit(request)
        try:
            self._roster.end_all(reason())
        except Exception:
            _log.exception("engine %s: ended with its books wrong", self._runner.manifest.name)
        self._publish()
        self._count()
        if self.failed and self._on_stopped is not None:
            self._on_stopped()

    def _turn(self) -> None:
        # While anybody is here there is something to run, so no deadline is slept through.
        requests, cancels = self._inbox.take(0.0 if self._roster.has_ready else _IDLE_WAIT_S)
        for request in requests:
            self._roster.admit(request)
        for cancelled in cancels:
            self._roster.cancel(cancelled)
        now = self._clock()
        self._pace.work(now)
        self._roster.expire(now)
        plan = schedule(self._roster.ready(), self._limits.batch)
        self._count()
        self._publish()  # whom a batch has nothing to say to does not wait for it
        for batch in plan:
            self._run(batch)
            self._publish()
        self._count()
        if self._roster.num_tasks == 0:
            self._pace.rest()
        if not (requests or cancels or plan):  # an idle engine has the time
            self._roster.check_integrity()

    def _run(self, batch: Batch) -> None:
        """Bind, run, decide. A run that breaks ends the requests of its batch, a decision that breaks its own alone."""
        tasks = self._roster.take(batch.requests)
        try:
            wanted = dict.fromkeys(name for task in tasks for name in task.outputs)
            inputs = feeds(batch.graph, self._step_inputs, tasks)
            outputs = Outputs(self._runner.run(batch.graph, inputs, tuple(wanted)))
        except Exception:
            _log.exception("engine %s: a %s batch failed", self._runner.manifest.name, batch.graph)
            for task in tasks:
                self._roster.fail(task, _failure())
            return
        row = 0
        for task in tasks:
            num_rows = task.work.rows
            try:
                events = task.advance(outputs, row)
            except Exception:
                _log.exception("engine %s: request %d failed", self._runner.manifest.name, task.request.id)
                self._roster.fail(task, _failure())
            else:
                self._roster.settle(task, events)
            row += num_rows

    def _publish(self) -> None:
        if events := self._roster.events:
            self._roster.events = []
            self._pace.note(events, self._clock())
            try:
                self._publish_events(events)
            except Exception:
                _log.exception("engine %s: nobody took %d events", self._runner.manifest.name, len(events))

    def _count(self) -> None:
        """Tell the inbox and whoever asks for `stats` how things stand; an `EngineStats` is made when asked for."""
        roster = self._roster
        self._inbox.set_backlog(roster.num_new, roster.num_steps)
        self._counts = (
            roster.num_new + len(self._inbox),
            roster.num_tasks - roster.num_new,
            roster.room.slots.num_free,
            roster.room.slots.num_usable,
            roster.room.pages.num_free_rows,
            roster.room.pages.num_usable_rows,
            roster.num_sessions,
        )


def _shut_down() -> ShuttingDown:
    return ShuttingDown("the service is shutting down and takes no more requests")


def _broken() -> InternalFailure:
    return InternalFailure("the model has stopped")


def _failure() -> InternalFailure:
    return InternalFailure("the model failed on this request")
