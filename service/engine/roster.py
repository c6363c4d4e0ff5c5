"""Who is here, what each holds, and what each wants next.

The roster turns requests into work. What is asked of sessions it leaves to `at_sessions`; of all else it is the only
one that ends it: `_end` emits the one terminal event and takes everything back. What is in a batch that runs is not
ended before that batch comes back.
"""

import logging
from collections.abc import Sequence
from typing import Final

from export.manifest import Manifest
from service.engine.admission import Admission
from service.engine.at_sessions import AT_SESSIONS, AtSessions
from service.engine.deadlines import Deadlines
from service.engine.groups import Groups
from service.engine.host import HostStates, StateRows
from service.engine.integrity import IntegrityError
from service.engine.interface import (
    AnyRequest,
    Cancelled,
    DescribeSessions,
    EndLift,
    Event,
    Failed,
    Finished,
    LandSession,
    OpenSession,
    Request,
    RequestId,
    TokensDecided,
)
from service.engine.limits import EngineLimits
from service.engine.ready import ReadyQueue
from service.engine.room import Room
from service.engine.schedule import Batch
from service.engine.session import Session
from service.engine.sessions import Sessions
from service.engine.slots import SlotTable
from service.engine.tasks.sequence import SequenceTask
from service.engine.tasks.task import Outputs, Task, Work
from service.engine.tasks.tensors import TensorsTask
from service.engine.tensor_session import TensorSession
from service.engine.turn import Turn
from service.errors import DeadlineExceeded, InternalFailure, ServiceError
from service.runtime.errors import is_device_lost

_log = logging.getLogger(__name__)
_WHOLE: Final = (SequenceTask, TensorsTask)  # run once, and hold nothing meanwhile


class Roster:
    """Everybody between admission and the terminal event.

    Args:
        manifest: Of the model: which graphs there are and what they take.
        rows: The state pools.
        num_slots: Rows of the state pool.
        num_memory_rows: Rows of the attention memory.
        limits: Bounds.
        num_runners: Batches that may run side by side.

    Attributes:
        lost: The error with which a GPU was lost when a request was admitted.
    """

    def __init__(
        self,
        manifest: Manifest,
        rows: StateRows,
        num_slots: int,
        num_memory_rows: int,
        limits: EngineLimits,
        num_runners: int = 1,
    ) -> None:
        self.turn = Turn()
        self._limits = limits
        slots = SlotTable(num_slots)
        # A model that attends has no sessions; all slots are for requests.
        session_slots = 0 if manifest.memories else limits.session_slots
        max_sessions = 0 if manifest.memories else limits.max_sessions
        self.room = Room(slots, slots.num_usable - session_slots, num_memory_rows)
        host = HostStates(rows, manifest.states)
        kind = TensorSession if manifest.imported is not None else Session
        self.sessions = Sessions(
            host, slots, session_slots, max_sessions, limits.max_host_bytes, limits.max_marks, kind
        )
        self._admission = Admission(manifest, self.room.num_slots, self.room.pages.num_usable_rows)
        self._tasks: dict[RequestId, Task] = {}
        self.ready = ReadyQueue()
        self.groups = Groups(num_runners) if limits.batching == "request" else None
        self._deadlines = Deadlines(self._is_here)
        self.at_sessions = AtSessions(self.turn, self.sessions, self.ready, self._deadlines, self._admission, limits)
        self._num_sequences = 0
        self.lost: Exception | None = None

    # -------------------------------------------------------------------------------------------------------- arrivals

    def admit(self, request: AnyRequest, now: float) -> None:
        """Turn a request into work, or into its one event where that can be said at once."""
        self.turn.now = now
        try:
            if isinstance(request, AT_SESSIONS):
                self.at_sessions.admit(request)
            elif isinstance(request, OpenSession):
                self.at_sessions.open(request)
            elif isinstance(request, LandSession):
                self.at_sessions.land(request)
            elif isinstance(request, EndLift):
                self.at_sessions.end_lift(request)
            elif isinstance(request, DescribeSessions):
                self.turn.events.append(Finished(request.id, self.sessions.describe(request.sessions, now)))
            else:
                assert isinstance(request, Request)
                self._admit_work(request)
        except ServiceError as error:
            self.turn.fail(request.id, error)
        except Exception as error:
            _log.exception("request %d could not be admitted", request.id)
            self.lost = error if is_device_lost(error) else self.lost
            self.turn.fail(request.id, InternalFailure("the request could not be started"))

    def _admit_work(self, request: Request) -> None:
        task = self._admission.task(request)
        self._tasks[request.id] = task
        if request.deadline_s is not None:
            self._deadlines.add(request.deadline_s, request.id)
        if isinstance(task, _WHOLE):
            self._num_sequences += 1
        if task.num_slots:
            self.room.wait(task, self.turn.key(task.request.priority))
        else:
            self._make_ready(task)

    def _make_ready(self, task: Task) -> None:
        task.ready_since_s = self.turn.now
        self.ready.add(task.work._replace(key=self.turn.key(task.request.priority)))

    # ------------------------------------------------------------------------------------------------------------ work

    def start_waiting(self, now: float) -> None:
        """Begin the requests that there is room for."""
        self.turn.now = now
        if self.groups is None:
            for task in self.room.start():
                self._make_ready(task)
        elif self.groups.can_begin and self.room.can_start:
            tasks = self.room.start(self._limits.batch.max_rows)
            self.groups.begin([task.request.id for task in tasks])
            for task in tasks:
                self._make_ready(task)

    def take(self, batch: Batch) -> list[Work]:
        """The works of a batch, which are in flight from now on; who finds no slot stays ready."""
        works: list[Work] = []
        sessions: list[Session] = []
        for request in batch.requests:
            task = self._tasks.get(request)
            if task is not None:
                works.append(task)
            else:
                sessions.append(self.sessions.find_open(request))
        if sessions:
            works += self.sessions.bring_in(sessions)
        for work in works:
            self.ready.discard(work.work.request)
            work.in_flight = True
            work.take(batch.length)
        return works

    def settle(self, works: Sequence[Work], outputs: Outputs, now: float) -> None:
        """Take in what a batch gave."""
        self.turn.now = now
        row = 0
        for work in works:
            num_rows = work.work.rows
            work.in_flight = False
            try:
                events = work.advance(outputs, row)
            except Exception:
                _log.exception("request %d failed", work.work.request)
                self.fail(work, InternalFailure("the model failed on this request"))
            else:
                if isinstance(work, Session):
                    self.at_sessions.settle(work, events)
                else:
                    assert isinstance(work, Task)
                    self._settle_task(work, events)
            row += num_rows

    def _settle_task(self, task: Task, events: Sequence[Event]) -> None:
        if task.ending is not None:  # what the run gave came too late
            self._end(task, task.ending)
            return
        for event in events:
            if not isinstance(event, TokensDecided):
                self._end(task, event)
                return
            self._emit(task, event)
        self._make_ready(task)

    # -------------------------------------------------------------------------------------------------------- the end

    def cancel(self, request: RequestId) -> None:
        """End a request as cancelled; unknown and ended ones, and closes, are left alone."""
        self._stop(request, Cancelled(request))

    def expire(self, now: float, run_s: float) -> bool:
        """End the requests that cannot be answered in time any more and the sessions that were idle for too long.

        Args:
            now: On the engine's clock.
            run_s: What the shortest runs take, in seconds: what waits with less time left is not run for nothing.

        Returns:
            Whether anything was ended before its time.
        """
        self.turn.now = now
        early = False
        for deadline_s, request in self._deadlines.due(now + run_s):
            if deadline_s > now and self._is_in_flight(request):
                self._deadlines.add(deadline_s, request)
            else:
                error = DeadlineExceeded("the deadline came before the answer could be ready")
                self._stop(request, Failed(request, error))
                early = early or deadline_s > now
        self.at_sessions.expire()
        return early

    def _is_here(self, request: RequestId) -> bool:
        return request in self._tasks or self.at_sessions.has(request)

    def has_begun(self, request: RequestId) -> bool:
        """Whether a request that was taken is in a batch that runs, has begun in another way or is over."""
        if not self._is_here(request):
            return True
        task = self._tasks.get(request)
        return self.at_sessions.has_begun(request) if task is None else task.in_flight

    def _is_in_flight(self, request: RequestId) -> bool:
        task = self._tasks.get(request)
        return self.at_sessions.is_in_flight(request) if task is None else task.in_flight

    def _stop(self, request: RequestId, event: Event) -> None:
        task = self._tasks.get(request)
        if task is not None:
            if task.in_flight:
                task.ending = task.ending or event
            else:
                self._end(task, event)
            return
        self.at_sessions.stop(request, event)

    def fail(self, work: Work, error: ServiceError) -> None:
        """End work whose run broke."""
        work.in_flight = False
        if isinstance(work, Session):
            self.at_sessions.end(work, error)
        else:
            assert isinstance(work, Task)
            self.turn.num_ended += 1  # it has had its run, and those behind it wait for it no longer
            self._end(work, Failed(work.request.id, error))

    def end_all(self, error: ServiceError) -> None:
        """End every request and every session, even where a bug has left the books wrong."""
        for task in list(self._tasks.values()):
            try:
                self.fail(task, error)
            except Exception:  # its event is out: what is held comes last
                _log.exception("request %d ended with its books wrong", task.request.id)
        self.at_sessions.end_all(error)

    def _end(self, task: Task, event: Event) -> None:
        """The one place where a task ends: one terminal event, everything that it held back where it belongs."""
        request = task.request.id
        del self._tasks[request]
        self.turn.num_ended += isinstance(event, Finished)
        self.ready.discard(request)
        self._emit(task, event)
        if self.groups is not None:
            self.turn.events.extend(self.groups.leave(request))
        self.room.leave(task)
        if isinstance(task, _WHOLE):
            self._num_sequences -= 1

    def _emit(self, task: Task, event: Event) -> None:
        """Publish what happened to a task, or keep it for the end of its group."""
        group = self.groups.of(task.request.id) if self.groups is not None else None
        if group is None:
            self.turn.events.append(event)
        elif isinstance(event, TokensDecided | Finished):
            group.events.append(event)
        else:
            group.events = [kept for kept in group.events if kept.request != task.request.id]  # type: ignore[union-attr]
            self.turn.events.append(event)

    # ----------------------------------------------------------------------------------------------------------- counts

    @property
    def num_tasks(self) -> int:
        """Requests between admission and their end."""
        return len(self._tasks) + len(self.at_sessions)

    @property
    def num_new(self) -> int:
        """Those of them that are new work and have not started."""
        return self.room.num_waiting + self._num_sequences

    @property
    def num_steps(self) -> int:
        """Those of them that are for a session."""
        return len(self.at_sessions)

    def next_look_s(self) -> float | None:
        """When a session may have been idle for too long."""
        return self.sessions.next_look_s

    def check_integrity(self, num_in_flight: int) -> None:
        """Prove that every slot and page is either free or held by exactly one task or session.

        Args:
            num_in_flight: Works in batches that run.

        Raises:
            IntegrityError: Something was lost or given out twice.
        """
        self.room.check_integrity(self._tasks.values(), self.sessions.held)
        self.at_sessions.check_integrity()
        if self.num_tasks and not (num_in_flight or len(self.ready) or self.room.can_start):
            raise IntegrityError(f"expected something to run while requests wait, got {self.num_tasks} that wait")
