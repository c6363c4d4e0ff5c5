"""Who is here, what each holds, and what each wants next.

The roster turns requests into work, and is the only one that ends it: `_end` and `_end_step` emit the one terminal
event and take everything back. What is in a batch that runs is not ended before that batch comes back.
"""

import logging
from collections.abc import Sequence
from typing import Final

from export.manifest import Manifest
from service.engine.admission import Admission
from service.engine.deadlines import Deadlines
from service.engine.groups import Groups
from service.engine.host import HostStates, StateRows
from service.engine.integrity import IntegrityError
from service.engine.interface import (
    AnyRequest,
    Cancelled,
    CloseSession,
    DescribeSessions,
    Event,
    ExportSession,
    Failed,
    Finished,
    ForkSession,
    MarkSession,
    OpenSession,
    Request,
    RequestId,
    RewindSession,
    SessionEnded,
    SessionState,
    SessionSteps,
    StepOutputs,
    StepSession,
    StepTensors,
    TokensDecided,
)
from service.engine.limits import EngineLimits
from service.engine.pace import retry_after_s
from service.engine.ready import ReadyQueue
from service.engine.room import Room
from service.engine.schedule import PRIORITY_HEAD_START_S, Batch, WorkItem
from service.engine.session import STEPS, Session, SessionRequest, Step
from service.engine.sessions import Sessions
from service.engine.slots import SlotTable
from service.engine.tasks.sequence import SequenceTask
from service.engine.tasks.task import Outputs, Task, Work
from service.engine.tasks.tensors import TensorsTask
from service.engine.tensor_session import TensorSession
from service.errors import DeadlineExceeded, InternalFailure, Overloaded, ServiceError, SessionNotFound

_log = logging.getLogger(__name__)
_AT_SESSIONS: Final = (*STEPS, CloseSession, ForkSession, MarkSession, RewindSession, ExportSession)
_WHOLE: Final = (SequenceTask, TensorsTask)  # run once, and hold nothing meanwhile
_MOST_PENDING: Final = 1024  # requests at one session


class Roster:
    """Everybody between admission and the terminal event.

    Args:
        manifest: Of the model: which graphs there are and what they take.
        rows: The state pools.
        num_slots: Rows of the state pool.
        num_memory_rows: Rows of the attention memory.
        limits: Bounds.
        num_runners: Batches that may run side by side.
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
        self.events: list[Event] = []  # since the last publishing
        self.num_ended = 0  # requests for new work, since then too
        self.num_stepped = 0  # steps of sessions, since then too
        self.num_refused = 0
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
        self._at_session: dict[RequestId, Session] = {}  # where each unfinished request of a session waits
        self.ready = ReadyQueue()
        self.groups = Groups(num_runners) if limits.batching == "request" else None
        self._deadlines = Deadlines()
        self._num_sequences = 0
        self.num_inputs = 0  # of unfinished steps
        self._now = 0.0

    # -------------------------------------------------------------------------------------------------------- arrivals

    def admit(self, request: AnyRequest, now: float) -> None:
        """Turn a request into work, or into its one event where that can be said at once."""
        self._now = now
        try:
            if isinstance(request, STEPS):
                self._admit_step(request)
            elif isinstance(request, _AT_SESSIONS):
                self._admit_at_session(request)
            elif isinstance(request, OpenSession):
                self._open(request)
            elif isinstance(request, DescribeSessions):
                self.events.append(Finished(request.id, self.sessions.describe(request.sessions, now)))
            else:
                assert not isinstance(request, StepTensors)
                self._admit_work(request)
        except ServiceError as error:
            self.num_refused += isinstance(error, Overloaded)
            self.events.append(Failed(request.id, error))
        except Exception:
            _log.exception("request %d could not be admitted", request.id)
            self.events.append(Failed(request.id, InternalFailure("the request could not be started")))

    def _admit_work(self, request: Request) -> None:
        task = self._admission.task(request)
        self._tasks[request.id] = task
        if request.deadline_s is not None:
            self._deadlines.add(request.deadline_s, request.id, self._is_here)
        if isinstance(task, _WHOLE):
            self._num_sequences += 1
        if task.num_slots:
            self.room.wait(task, self._key(task.request.priority))
        else:
            self._make_ready(task)

    def _make_ready(self, task: Task) -> None:
        task.ready_since_s = self._now
        self.ready.add(task.work._replace(key=self._key(task.request.priority)))

    def _key(self, priority: int) -> float:
        return self._now - PRIORITY_HEAD_START_S * priority

    # -------------------------------------------------------------------------------------------------------- sessions

    def _open(self, request: OpenSession) -> None:
        self._admission.require_steps(request)
        session = self.sessions.open(request, self._now)
        self.events.append(Finished(request.id, SessionSteps(session.num_steps)))

    def _admit_step(self, request: Step) -> None:
        session = self.sessions.find(request.session)
        self._admission.check_step(request)
        self._require_place(session)
        self.num_inputs += request.num_steps
        if request.deadline_s is not None:
            self._deadlines.add(request.deadline_s, request.id, self._is_here)
        self._queue(session, request)

    def _admit_at_session(self, request: SessionRequest) -> None:
        session = self.sessions.find(request.source if isinstance(request, ForkSession) else request.session)
        if isinstance(request, CloseSession):
            session.closing = True
        else:
            self._require_place(session)
        if isinstance(request, ForkSession):
            # There from now on, so that what is asked of it can wait at it; it moves once the fork has acted.
            self.sessions.announce(request.session, session, request.idle_timeout_s, self._now)
        self._queue(session, request)

    def _require_place(self, session: Session) -> None:
        if len(session.pending) >= _MOST_PENDING:
            raise Overloaded(f"the session is at its limit: {_MOST_PENDING} requests wait at it", retry_after_s(0.0))

    def _queue(self, session: Session, request: SessionRequest) -> None:
        self._at_session[request.id] = session
        if session.pending:
            session.pending.append(request)
            self._renew(session)
        else:
            session.pending = [request]
            if not session.in_flight:
                self._promote(session)

    def _renew(self, session: Session) -> None:
        """Tell the queue how much a session that is in it could take in one run now."""
        most = self._limits.batch.max_chunk
        if most > 1 and session.id in self.ready:
            session.work = session.work._replace(length=session.backlog(most))
            self.ready.add(session.work)

    def _promote(self, session: Session) -> None:
        """Deal with what is pending at a session until a step has to run; the session is in no batch and not ready."""
        session.last_used_s = self._now
        while session.pending:
            head = session.pending[0]
            if isinstance(head, STEPS):
                event = session.check_index(head) if session.num_consumed == 0 else None
                if event is None:
                    most = self._limits.batch.max_chunk
                    length = 1 if most == 1 else session.backlog(most)
                    key = self._key(session.priority)
                    session.work = WorkItem(session.id, "step", 1, length, 1, key, session.group())
                    session.ready_since_s = self._now
                    self.ready.add(session.work)
                    return
                session.pop()
                self._end_step(head, event)
            else:
                session.pop()
                del self._at_session[head.id]
                try:
                    value = self._act(session, head)
                except ServiceError as error:
                    self.num_refused += isinstance(error, Overloaded)
                    self.events.append(Failed(head.id, error))
                    self._call_off(head)
                else:
                    self.events.append(Finished(head.id, value))
                    if isinstance(head, ForkSession):
                        self._arrive(self.sessions.find_open(head.session))
        session.rest()

    def _act(self, session: Session, request: SessionRequest) -> object:
        """Do what needs no run; gives the value of its Finished."""
        num_steps = session.num_steps
        match request:
            case CloseSession():
                self.sessions.end(session)
            case ForkSession():
                self.sessions.fork(session, self.sessions.find_open(request.session))
            case MarkSession():
                self.sessions.mark(session, request.mark)
            case RewindSession():
                self.sessions.rewind(session, request.mark)
                num_steps = session.num_steps
            case ExportSession():
                return SessionState(self.sessions.tensors(session), num_steps)
        return SessionSteps(num_steps)

    def _arrive(self, session: Session) -> None:
        """Let a forked session begin with what waits at it."""
        session.in_flight = False
        if session.dropped is not None:
            self._drop_pending(session)
        if session.pending:
            self._promote(session)

    def _call_off(self, request: SessionRequest) -> None:
        """End the session that a fork announced and that will not be."""
        if isinstance(request, ForkSession):
            expected = f"session {request.session}: expected a fork that took place"
            self._abandon(self.sessions.find_open(request.session), SessionNotFound(expected))

    def _end_step(self, request: Step, event: Event) -> None:
        """End a step that is off its session's list."""
        del self._at_session[request.id]
        self.num_inputs -= request.num_steps
        self.events.append(event)

    def _break(self, session: Session, error: ServiceError) -> None:
        """End a session whose state is not known any more, with all that it has pending."""
        self.events.append(SessionEnded(session.id, expired=False, num_steps=session.num_steps))
        self._abandon(session, error)

    def _abandon(self, session: Session, error: ServiceError) -> None:
        """End a session and fail all that it has pending."""
        self.ready.discard(session.id)
        for request in list(session.pending):
            session.pop()
            if isinstance(request, STEPS):
                self._end_step(request, Failed(request.id, error))
            else:
                del self._at_session[request.id]
                self.events.append(Failed(request.id, error))
                self._call_off(request)
        self.sessions.end(session)

    # ------------------------------------------------------------------------------------------------------------ work

    def start_waiting(self, now: float) -> None:
        """Begin the requests that there is room for."""
        self._now = now
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
        self._now = now
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
                    self._settle_session(work, events)
                else:
                    assert isinstance(work, Task)
                    self._settle_task(work, events)
            row += num_rows

    def _settle_session(self, session: Session, events: Sequence[Event]) -> None:
        for event, request in zip(events, session.answered, strict=True):
            if self._limits.kept_answers and isinstance(request, StepSession):
                assert isinstance(event, Finished)
                assert isinstance(event.value, StepOutputs)
                session.keep(event.value, request.inputs, self._limits.kept_answers)
            del self._at_session[request.id]
            self.num_inputs -= request.num_steps
            self.num_stepped += request.num_steps
            self.events.append(event)
        session.answered = ()
        if session.dropped is not None:
            self._drop_pending(session)
        if session.pending:
            self._promote(session)
        else:
            session.last_used_s = self._now
            session.rest()

    def _drop_pending(self, session: Session) -> None:
        dropped, session.dropped = session.dropped, None
        for request, event in (dropped or {}).items():
            if request in self._at_session:
                self._drop(session, request, event)

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
        self._now = now
        early = False
        for deadline_s, request in self._deadlines.due(now + run_s):
            if deadline_s > now and self._is_in_flight(request):
                self._deadlines.add(deadline_s, request, self._is_here)
            else:
                error = DeadlineExceeded("the deadline came before the answer could be ready")
                self._stop(request, Failed(request, error))
                early = early or deadline_s > now
        for session in self.sessions.take_idle(now):
            self.sessions.num_expired += 1
            self.sessions.end(session)
            self.events.append(SessionEnded(session.id, expired=True, num_steps=session.num_steps))
        return early

    def _is_here(self, request: RequestId) -> bool:
        return request in self._tasks or request in self._at_session

    def _is_in_flight(self, request: RequestId) -> bool:
        work: Work | None = self._tasks.get(request) or self._at_session.get(request)
        return work is not None and work.in_flight

    def _stop(self, request: RequestId, event: Event) -> None:
        task = self._tasks.get(request)
        if task is not None:
            if task.in_flight:
                task.ending = task.ending or event
            else:
                self._end(task, event)
            return
        session = self._at_session.get(request)
        if session is None:
            return
        if session.in_flight:
            if session.dropped is None:
                session.dropped = {}
            session.dropped.setdefault(request, event)
        else:
            self._drop(session, request, event)
            if session.pending and session.id not in self.ready:
                self._promote(session)
            elif not session.pending:
                session.rest()

    def _drop(self, session: Session, request_id: RequestId, event: Event) -> None:
        """Take a request out of a session's list, unless it has begun."""
        place, request = next((i, r) for i, r in enumerate(session.pending) if r.id == request_id)
        if isinstance(request, CloseSession) or (place == 0 and session.num_consumed):
            return  # a step is taken whole or not at all, and what has begun is soon done
        if place == 0:
            self.ready.discard(session.id)
            session.pop()
        else:
            del session.pending[place]
            self._renew(session)
        if isinstance(request, STEPS):
            self._end_step(request, event)
        else:
            del self._at_session[request_id]
            self.events.append(event)
            self._call_off(request)

    def fail(self, work: Work, error: ServiceError) -> None:
        """End work whose run broke."""
        work.in_flight = False
        if isinstance(work, Session):
            self._break(work, error)
        else:
            assert isinstance(work, Task)
            self._end(work, Failed(work.request.id, error))

    def end_all(self, error: ServiceError) -> None:
        """End every request and every session, even where a bug has left the books wrong."""
        for task in list(self._tasks.values()):
            try:
                self.fail(task, error)
            except Exception:  # its event is out: what is held comes last
                _log.exception("request %d ended with its books wrong", task.request.id)
        for session in self.sessions:
            try:
                if self.sessions.is_open(session):  # a fork that is called off takes its session along
                    self._break(session, error)
            except Exception:
                _log.exception("session %d ended with its books wrong", session.id)

    def _end(self, task: Task, event: Event) -> None:
        """The one place where a task ends: one terminal event, everything that it held back where it belongs."""
        request = task.request.id
        del self._tasks[request]
        self.num_ended += isinstance(event, Finished)
        self.ready.discard(request)
        self._emit(task, event)
        if self.groups is not None:
            self.events.extend(self.groups.leave(request))
        self.room.leave(task)
        if isinstance(task, _WHOLE):
            self._num_sequences -= 1

    def _emit(self, task: Task, event: Event) -> None:
        """Publish what happened to a task, or keep it for the end of its group."""
        group = self.groups.of(task.request.id) if self.groups is not None else None
        if group is None:
            self.events.append(event)
        elif isinstance(event, TokensDecided | Finished):
            group.events.append(event)
        else:
            group.events = [kept for kept in group.events if kept.request != task.request.id]  # type: ignore[union-attr]
            self.events.append(event)

    # ----------------------------------------------------------------------------------------------------------- counts

    @property
    def num_tasks(self) -> int:
        """Requests between admission and their end."""
        return len(self._tasks) + len(self._at_session)

    @property
    def num_new(self) -> int:
        """Those of them that are new work and have not started."""
        return self.room.num_waiting + self._num_sequences

    @property
    def num_steps(self) -> int:
        """Those of them that are for a session."""
        return len(self._at_session)

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
        self.sessions.check_integrity()
        pending = {request.id for session in self.sessions for request in session.pending}
        if pending != self._at_session.keys():
            raise IntegrityError(f"expected {sorted(self._at_session)} to wait at sessions, got {sorted(pending)}")
        if self.num_tasks and not (num_in_flight or len(self.ready) or self.room.can_start):
            raise IntegrityError(f"expected something to run while requests wait, got {self.num_tasks} that wait")
