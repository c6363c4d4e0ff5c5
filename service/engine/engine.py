"""The engine: a few runner threads a model, one lock, and one loop that fits on a screen.

    turn = settle what ran -> take what arrived -> expire -> schedule one batch -> bind | run

Each runner thread holds the lock for its turn and lets go of it while its batch runs, so runs go on side by side, and
whoever is done plans the next one: there is nobody to wait for. What the lock guards (tasks, sessions, slots, memory)
is touched by one thread at a time, and no row of a batch that runs is in another one. Others talk to the engine through
the inbox and hear from it through `publish`, which is called with lists of events.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from export.manifest import GraphKind
from service.engine.courtesy import step_aside
from service.engine.inbox import Inbox
from service.engine.interface import AnyRequest, EngineStats, Publish, RequestId, RunStats
from service.engine.limits import EngineLimits
from service.engine.pace import Pace
from service.engine.ran import Ran
from service.engine.roster import Roster
from service.engine.runs import Arrays, GraphRunner, Part, Plan, Runs, TrainedRuns, failure
from service.engine.schedule import schedule
from service.engine.slots import NUM_RESERVED
from service.engine.tasks.task import Outputs
from service.engine.tensor_runs import TensorRuns
from service.errors import InternalFailure, ServiceError, ShuttingDown
from service.runtime.errors import is_device_lost

_log = logging.getLogger(__name__)
_IDLE_WAIT_S: Final = 5.0  # an idle engine wakes this often and checks its books
_MOST_CHECKED: Final = 10_000  # sessions whose books are checked so
_RUN_MEMORY: Final = 0.9  # of the moving average of what runs take
_RUN_ON_S: Final = 5.0  # that a run may take when the engine is closed; then it is ended
_JOIN_S: Final = 25.0  # and the longest that one may take to end, which operators do not do in their middle
_FIRST_STEP_S: Final = 0.0002  # a session step, before any was seen
_FIRST_WORK_S: Final = 0.002  # any other request


class Engine:
    """Serves one model; implements `EngineDoor`.

    Args:
        runner: Runs the graphs; the engine owns it from now on.
        limits: Bounds.
        publish: Takes events, on a runner thread, one call at a time; must not block.
        on_stopped: Called once on a runner thread, after the last events, if a bug or a lost GPU ended the engine.
        clock: Seconds, on which deadlines are told.
        num_runners: Batches that may run side by side.
        warm_up: Called on the thread of the first lane before it runs anything: what is captured is for one thread.
            It is given what says whether the engine closes, and then leaves the rest out.

    Attributes:
        failed: Whether a bug or a lost GPU ended the engine. It takes nothing any more.
    """

    def __init__(
        self,
        runner: GraphRunner,
        limits: EngineLimits,
        publish: Publish,
        on_stopped: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        num_runners: int = 1,
        warm_up: Callable[[Callable[[], bool]], None] = lambda closing: None,
    ) -> None:
        most = runner.num_slots - NUM_RESERVED - 1
        if not 0 <= limits.session_slots <= most or limits.max_waiting < 1 or num_runners < 1:
            expected = f"session_slots at most {most}, max_waiting and num_runners at least 1"
            raise ValueError(f"limits: expected {expected}, got {limits} and {num_runners} runners")
        imported = runner.manifest.imported
        if imported is not None and imported.max_rows is not None:  # its graph breaks on more, whoever asks for it
            limits = replace(limits, batch=limits.batch.cut(imported.max_rows))
        self.failed = False
        self._runner, self._limits, self._publish_events, self._clock = runner, limits, publish, clock
        self._on_stopped, self._num_runners = on_stopped, num_runners
        self._warm_up = warm_up
        manifest = runner.manifest
        self._runs: Runs = TrainedRuns(runner) if imported is None else TensorRuns(runner, limits.max_run_s)
        self._outputs = {kind: [tensor.name for tensor in graph.outputs] for kind, graph in manifest.graphs.items()}
        self._step_pace, self._work_pace = Pace(_FIRST_STEP_S), Pace(_FIRST_WORK_S)
        self._inbox = Inbox(
            limits.max_waiting,
            limits.max_waiting + limits.max_sessions,
            limits.max_queue_delay_s,
            self._work_pace,
            self._step_pace,
            clock,
        )
        self._lock = threading.Lock()
        self._roster = Roster(manifest, runner, runner.num_slots, runner.num_memory_rows, limits, num_runners)
        self._arrived: deque[AnyRequest] = deque()  # taken from the inbox and not admitted yet
        self._last: GraphKind | None = None
        self._in_flight: dict[int, Plan] = {}  # by lane
        self._ran = Ran()
        self._run_s: dict[GraphKind, float] = {}  # what a run of each graph takes, a moving average
        self._filling_since_s: float | None = None  # steps wait for others to share their run
        self._num_alive = 0
        self._closing = self._ended = False
        self._count()
        self._threads = [
            threading.Thread(target=self._live, args=(lane,), name=f"runner-{manifest.name}-{lane}", daemon=True)
            for lane in range(num_runners)
        ]

    # -------------------------------------------------------------------------------------- the door, from any thread

    def submit(self, request: AnyRequest) -> None:
        """Admit a request; see `EngineDoor`."""
        self._inbox.put(request)

    def cancel(self, request: RequestId) -> None:
        """Stop a request within one step; see `EngineDoor`."""
        self._inbox.cancel(request)

    def has_begun(self, request: RequestId) -> bool:
        """Whether a request runs by now; see `EngineDoor`."""
        with self._lock:
            return not self._inbox.has(request) and self._roster.has_begun(request)

    def stats(self) -> EngineStats:
        """Counts as of the last turn."""
        return EngineStats(*self._counts)

    def run_stats(self) -> RunStats:
        """What has run since the start; safe from any thread."""
        with self._lock:
            return self._ran.snapshot()

    def start(self) -> None:
        """Begin to serve."""
        self._runs.start()
        self._num_alive = len(self._threads)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop after the batches that run; what has not finished fails with ShuttingDown."""
        self._closing = True
        self._inbox.close(_shut_down)
        if self._num_alive == 0 and not self._threads[0].is_alive():
            with self._lock:
                self._end()
            self._runs.close()
            return
        self._join(_RUN_ON_S)
        with self._lock:
            self._runs.end(self._in_flight)
        self._join(_JOIN_S)
        self._runs.close()
        if any(thread.is_alive() for thread in self._threads):
            _log.error("engine %s: still in a run after %.0f s", self._runner.manifest.name, _RUN_ON_S + _JOIN_S)

    def _join(self, most_s: float) -> None:
        """Wait for the runner threads to end."""
        until = time.monotonic() + most_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def check_integrity(self) -> None:
        """Prove the books."""
        with self._lock:
            self._roster.check_integrity(len(self._in_flight))

    # ------------------------------------------------------------------------------------- one turn, by hand in tests

    def begin(self, lane: int) -> Plan | None:
        """Take what arrived and plan a batch, which is in flight until `finish`; None: there is nothing to run."""
        with self._lock:
            return self._begin(lane)

    def finish(self, lane: int, outputs: Arrays | Exception) -> None:
        """Settle the batch of a lane with what its run gave."""
        with self._lock:
            told = failure() if isinstance(outputs, Exception) else outputs
            self._finish(lane, (Part(self._in_flight[lane].works, told),))
            self._publish()

    # ------------------------------------------------------------------------------------------- the runner threads

    def _live(self, lane: int) -> None:
        step_aside()
        if lane == 0:
            self._get_ready()
        parts: Sequence[Part] = ()
        stirred = True
        while True:
            with self._lock:
                try:
                    if parts:
                        self._finish(lane, parts)
                        if not len(self._roster.ready) and not len(self._inbox):
                            self._publish()  # the answers need not wait for the planning of nothing
                    if self._closing or self.failed:
                        break
                    if not stirred:
                        self._check_when_idle()
                    # Publishes last: whoever hears of it needs the interpreter, which this thread lets go of next.
                    plan = self._begin(lane)
                    wait_s = self._wait_s() if plan is None else 0.0
                except Exception as error:
                    self._fail(error)
                    break
            if plan is None:
                parts = ()
                stirred = self._inbox.wait(wait_s)
            else:
                try:
                    parts = self._runs.run(plan, lane, partial(self._deliver, lane))
                except Exception as error:
                    with self._lock:
                        self._fail(error)
                    break
        with self._lock:
            self._num_alive -= 1
            if self._num_alive == 0:
                self._end()

    def _get_ready(self) -> None:
        try:
            self._warm_up(lambda: self._closing)
        except Exception as error:
            if is_device_lost(error):
                with self._lock:
                    self._fail(error)
            else:  # it then costs time later
                _log.exception("engine %s: could not get ready beforehand", self._runner.manifest.name)

    def _begin(self, lane: int) -> Plan | None:
        roster = self._roster
        requests, cancels = self._inbox.take()
        now = self._clock()
        self._arrived.extend(requests)
        while self._arrived:
            self._admit(self._arrived.popleft(), now)
        if roster.lost is not None:  # all that was taken has been admitted by now, and nothing is left without its end
            raise roster.lost
        for cancelled in cancels:
            roster.cancel(cancelled)
        if roster.expire(now, min(self._run_s.values(), default=0.0)):
            # What is not run is not measured: after a run that was slow by chance, somebody must be let through again.
            self._run_s = {graph: _RUN_MEMORY * run_s for graph, run_s in self._run_s.items()}
        roster.start_waiting(now)
        plan = self._plan(lane, now)
        self._count()
        if plan is not None and len(roster.ready) and len(self._in_flight) < self._num_runners:
            self._inbox.stir()
        self._publish()
        # After the publishing, which counts what has just ended; each by itself, or the first step after an hour of
        # other work would seem to have taken an hour.
        if roster.num_steps == 0:
            self._step_pace.rest()
        if roster.num_tasks == roster.num_steps:
            self._work_pace.rest()
        return plan

    def _admit(self, request: AnyRequest, now: float) -> None:
        try:
            self._roster.admit(request, now)
        except Exception:  # a bug, since it has an answer to all else: it ends the engine, and this request first
            self._roster.turn.fail(request.id, failure())
            raise

    def _fill_s(self, now: float) -> float:
        """How much longer steps should wait for others to share their run; not if nothing else runs meanwhile."""
        delay_s, ready = self._limits.fill_delay_s, self._roster.ready
        if not delay_s or not len(ready) or not self._in_flight or len(ready) >= self._limits.batch.max_rows:
            self._filling_since_s = None
            return 0.0
        oldest = ready.window(1)
        if not oldest["step"] or oldest["encode"] or oldest["sequence"]:
            return 0.0
        if self._filling_since_s is None:
            self._filling_since_s = now
        return self._filling_since_s + delay_s - now

    def _plan(self, lane: int, now: float) -> Plan | None:
        roster, limits = self._roster, self._limits.batch
        if self._fill_s(now) > 0:
            return None
        while len(roster.ready):
            self._step_pace.work(now)
            self._work_pace.work(now)
            idle = self._num_runners - len(self._in_flight)
            running = [(plan.graph, plan.num_rows) for plan in self._in_flight.values()]
            ready = roster.ready.window(limits.window(self._num_runners))
            batch = roster.groups.plan(ready, limits.max_padded_tokens) if roster.groups is not None else None
            batch = batch or schedule(ready, limits, self._last, idle, running)
            if batch is None:
                return None
            works = roster.take(batch)
            if not works:  # sessions that need slots of others in flight: the next turn is theirs
                return None
            self._last = batch.graph
            try:
                asked = {name for work in works for name in work.outputs}
                # In the graph's order: in the callers' there would be no end of different ones.
                wanted = tuple(name for name in self._outputs[batch.graph] if name in asked)
                group = roster.groups.of(batch.requests[0]) if roster.groups is not None else None
                inputs = self._runs.feeds(batch.graph, works, 0 if group is None else group.num_rows)
            except Exception:
                _log.exception("engine %s: a %s batch could not be made", self._runner.manifest.name, batch.graph)
                for work in works:
                    roster.fail(work, failure())
                continue
            plan = Plan(batch.graph, inputs, wanted, works, sum(work.work.rows for work in works), now)
            self._in_flight[lane] = plan
            self._filling_since_s = None
            return plan
        return None

    def _deliver(self, lane: int, parts: Sequence[Part]) -> None:
        """Settle the part of a batch that need not wait for the rest of it."""
        with self._lock:
            plan = self._in_flight[lane]
            ended = {id(work) for part in parts for work in part.works}
            works = [work for work in plan.works if id(work) not in ended]
            self._in_flight[lane] = plan._replace(works=works, whole=False)
            for part in parts:
                self._settle(part, self._clock())
            self._count()
            if len(self._roster.ready) and len(self._in_flight) < self._num_runners:
                self._inbox.stir()
            self._publish()

    def _finish(self, lane: int, parts: Sequence[Part]) -> None:
        plan = self._in_flight.pop(lane)
        now = self._clock()
        took_s = now - plan.began_s
        self._ran.note(plan.graph, plan.num_rows, took_s, [plan.began_s - work.ready_since_s for work in plan.works])
        if len(parts) == 1 and plan.whole and not isinstance(parts[0].outputs, ServiceError):
            # What fails, and what is run again, says nothing about others.
            self._run_s[plan.graph] = took_s + _RUN_MEMORY * (self._run_s.get(plan.graph, took_s) - took_s)
        for part in parts:
            self._settle(part, now)

    def _settle(self, part: Part, now: float) -> None:
        works, outputs = part
        if isinstance(outputs, ServiceError):
            for work in works:
                self._roster.fail(work, outputs)
        else:
            tops = [work.num_top for work in works]
            most = None if None in tops else max(tops)  # type: ignore[type-var]
            self._roster.settle(works, Outputs(outputs, most), now)

    def _wait_s(self) -> float:
        """How long a runner with nothing to run may sleep: until a session may have been idle for too long."""
        if (fill_s := self._fill_s(self._clock())) > 0:
            return fill_s
        look_s = self._roster.next_look_s()
        return _IDLE_WAIT_S if look_s is None else min(_IDLE_WAIT_S, max(0.0, look_s - self._clock()))

    def _check_when_idle(self) -> None:
        """Check the books if nothing runs and there is not too much to look at."""
        if not self._in_flight and len(self._roster.sessions) <= _MOST_CHECKED:
            self._roster.check_integrity(len(self._in_flight))

    def _publish(self) -> None:
        turn = self._roster.turn
        events = turn.events
        if not events:
            return
        now = self._clock()
        self._step_pace.note(turn.num_stepped, now)
        self._work_pace.note(turn.num_ended, now)
        turn.events, turn.num_stepped, turn.num_ended = [], 0, 0
        try:
            self._publish_events(events)
        except Exception:
            _log.exception("engine %s: nobody took %d events", self._runner.manifest.name, len(events))

    def _fail(self, error: Exception) -> None:
        """Note what has ended the engine; the other runners end after their runs."""
        why = "its GPU is lost to this process" if is_device_lost(error) else "stopped by a bug"
        _log.critical("engine %s: %s", self._runner.manifest.name, why, exc_info=error)
        self.failed = True
        self._inbox.close(_broken)

    def _end(self) -> None:
        """End everybody, once: the last runner has stopped."""
        if self._ended:
            return
        self._ended = True
        reason = _broken if self.failed else _shut_down
        self._inbox.close(reason)
        self._in_flight.clear()
        for request in (*self._arrived, *self._inbox.take()[0]):
            with contextlib.suppress(Exception):  # it was told
                self._admit(request, self._clock())
        self._arrived.clear()
        try:
            self._roster.end_all(reason())
        except Exception:
            _log.exception("engine %s: ended with its books wrong", self._runner.manifest.name)
        self._publish()
        self._count()
        if self.failed and self._on_stopped is not None:
            self._on_stopped()

    def _count(self) -> None:
        """Tell the inbox and whoever asks for `stats` how things stand; an `EngineStats` is made when asked for."""
        roster = self._roster
        # Nobody is said to wait behind the slow ones that a batch has left: other lanes go on.
        left = {True: 0, False: 0}
        for plan in self._in_flight.values():
            left[plan.graph == "step"] += 0 if plan.whole else len(plan.works)
        num_inputs = max(0, roster.at_sessions.num_inputs - left[True])
        self._inbox.set_backlog(max(0, roster.num_new - left[False]), roster.num_steps, num_inputs)
        self._counts = (
            roster.num_new + len(self._inbox),
            roster.num_tasks - roster.num_new,
            roster.room.slots.num_free,
            roster.room.slots.num_usable,
            roster.room.pages.num_free_rows,
            roster.room.pages.num_usable_rows,
            len(roster.sessions),
            roster.sessions.host_bytes,
            roster.sessions.max_host_bytes,
            roster.sessions.num_expired,
            roster.turn.num_refused + self._inbox.num_refused,
        )


def _shut_down() -> ShuttingDown:
    return ShuttingDown("the service is shutting down and takes no more requests")


def _broken() -> InternalFailure:
    return InternalFailure("the model has stopped")
