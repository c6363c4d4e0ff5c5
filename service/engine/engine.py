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
from service.errors import InternalFailure, ServiceError, ShuttingDown

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
        """Run a graph once, updating the pools."""


@dataclass(frozen=True)
class EngineLimits:
    """Bounds of one engine; what runs is bounded by the runner's slots and memory rows.

    Args:
        max_sessions: Most sessions open at a time.
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
        clock: Seconds, on which deadlines are told.
    """

    def __init__(
        self,
        runner: GraphRunner,
        limits: EngineLimits,
        publish: Publish,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        usable = runner.num_slots - NUM_RESERVED
        if not 0 <= limits.max_sessions <= usable or limits.max_waiting < 1:
            raise ValueError(f"limits: expected max_sessions at most {usable} and max_waiting at least 1, got {limits}")
        self._runner, self._limits, self._publish_events, self._clock = runner, limits, publish, clock
        manifest = runner.manifest
        self._step_inputs = row_inputs(manifest.graphs["step"]) if "step" in manifest.graphs else {}
        self._pace = Pace()
        self._inbox = Inbox(limits.max_waiting, limits.max_waiting + runner.num_slots, self._pace.retry_after_s)
        self._roster = Roster(
            manifest, runner.num_slots, runner.num_memory_rows, limits.max_sessions, self._pace.retry_after_s
        )
        self._closing = False
        self._drained = threading.Event()
        self._stats: EngineStats
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
        return self._stats

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new work and finish what was admitted; open sessions stay open and may step and close.

        Returns:
            Whether everything finished within `timeout_s` seconds.
        """
        self._inbox.drain()
        return self._drained.wait(timeout_s)

    def close(self) -> None:
        """Stop after the batch that runs; what has not finished fails with ShuttingDown."""
        self._closing = True
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                _log.error("engine %s: still in a run after %.0f s", self._runner.manifest.name, _JOIN_S)

    def check_integrity(self) -> None:
        """Prove the books; for the engine thread, and for tests after `close`."""
        self._roster.check_integrity()

    # ------------------------------------------------------------------------------------------- the engine thread

    def _live(self) -> None:
        error: ServiceError = ShuttingDown("the service shut down before the answer was ready")
        try:
            while not self._closing:
                self._turn()
        except Exception:
            _log.critical("engine %s: stopped by a bug", self._runner.manifest.name, exc_info=True)
            error = InternalFailure("the model has stopped")
        finally:
            self._inbox.close()
            for request in self._inbox.take(0)[0]:
                self._roster.admit(request)
            self._roster.end_all(error)
            self._publish()
            self._count()
            self._drained.set()

    def _turn(self) -> None:
        requests, cancels = self._inbox.take(self._patience_s())
        for request in requests:
            self._roster.admit(request)
        for cancelled in cancels:
            self._roster.cancel(cancelled)
        self._roster.expire(self._clock())
        plan = schedule(self._roster.ready(), self._limits.batch)
        self._count()
        self._publish()  # whom a batch has nothing to say to does not wait for it
        for batch in plan:
            self._run(batch)
            self._publish()
        self._count()
        if self._roster.num_tasks == 0:
            self._rest(idle=not (requests or cancels or plan))

    def _run(self, batch: Batch) -> None:
        """Bind, run, decide. What breaks in a batch breaks for its requests alone."""
        tasks = self._roster.take(batch.requests)
        try:
            wanted = dict.fromkeys(name for task in tasks for name in task.outputs)
            inputs = feeds(batch.graph, self._step_inputs, tasks)
            outputs = Outputs(self._runner.run(batch.graph, inputs, tuple(wanted)))
            row = 0
            for task in tasks:
                num_rows = task.work.rows
                self._roster.settle(task, task.advance(outputs, row))
                row += num_rows
        except Exception:
            _log.exception("engine %s: a %s batch failed", self._runner.manifest.name, batch.graph)
            for task in tasks:
                self._roster.fail(task, InternalFailure("the model failed on this request"))

    def _publish(self) -> None:
        if events := self._roster.events:
            self._roster.events = []
            self._pace.note(events, self._clock())
            try:
                self._publish_events(events)
            except Exception:
                _log.exception("engine %s: nobody took %d events", self._runner.manifest.name, len(events))

    def _patience_s(self) -> float:
        """How long the inbox may be waited for, in seconds."""
        if self._roster.has_ready:
            return 0.0
        deadline = self._roster.next_deadline()
        return _IDLE_WAIT_S if deadline is None else min(_IDLE_WAIT_S, max(0.0, deadline - self._clock()))

    def _rest(self, idle: bool) -> None:
        """Nothing is in hand. Draining may be over, and an idle engine has the time to check its books."""
        if self._inbox.draining and not len(self._inbox):
            self._drained.set()
        if idle:
            self._roster.check_integrity()

    def _count(self) -> None:
        """Tell the inbox and whoever asks for `stats` how things stand."""
        roster = self._roster
        self._inbox.set_backlog(roster.num_new, roster.num_steps)
        self._stats = EngineStats(
            waiting=roster.num_new + len(self._inbox),
            running=roster.num_tasks - roster.num_new,
            free_slots=roster.slots.num_free,
            num_slots=roster.slots.num_usable,
            free_memory_rows=roster.pages.num_free_rows,
            num_memory_rows=roster.pages.num_usable_rows,
            sessions=roster.num_sessions,
        )
