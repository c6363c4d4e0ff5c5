"""Requests that wait at sessions, in order: steps become work, and what needs no run is done when its turn comes.

The only one that ends them: `_end_step` and the few places beside it emit the one terminal event. What is in a batch
that runs is not ended before that batch comes back.
"""

import logging
from collections.abc import Sequence
from typing import Final

from service.engine.admission import Admission
from service.engine.deadlines import Deadlines
from service.engine.integrity import IntegrityError
from service.engine.interface import (
    CloseSession,
    EndLift,
    Event,
    ExportSession,
    Failed,
    Finished,
    ForkSession,
    LandSession,
    LiftSession,
    MarkSession,
    OpenSession,
    RequestId,
    RewindSession,
    SessionEnded,
    SessionState,
    SessionSteps,
    StepOutputs,
    StepSession,
)
from service.engine.limits import EngineLimits
from service.engine.pace import retry_after_s
from service.engine.ready import ReadyQueue
from service.engine.schedule import WorkItem
from service.engine.session import STEPS, Session, SessionRequest, Step
from service.engine.sessions import Sessions
from service.engine.turn import Turn
from service.errors import DeadlineExceeded, Overloaded, ServiceError, SessionNotFound

AT_SESSIONS: Final = (*STEPS, CloseSession, ForkSession, MarkSession, RewindSession, ExportSession, LiftSession)
_MOST_PENDING: Final = 1024  # requests at one session
_log = logging.getLogger(__name__)


class AtSessions:
    """See the module docstring.

    Args:
        turn: The time and the events.
        sessions: All that are open.
        ready: Where work waits for a runner.
        deadlines: Of all requests.
        admission: What the model can be asked.
        limits: Bounds.

    Attributes:
        num_inputs: Of unfinished steps.
    """

    def __init__(
        self,
        turn: Turn,
        sessions: Sessions,
        ready: ReadyQueue,
        deadlines: Deadlines,
        admission: Admission,
        limits: EngineLimits,
    ) -> None:
        self._turn, self.sessions, self._ready = turn, sessions, ready
        self._deadlines, self._admission = deadlines, admission
        self._max_chunk, self._kept_answers = limits.batch.max_chunk, limits.kept_answers
        self._at: dict[RequestId, Session] = {}  # where each unfinished request waits
        self.num_inputs = 0

    def __len__(self) -> int:
        return len(self._at)

    def has(self, request: RequestId) -> bool:
        """Whether a request waits at a session."""
        return request in self._at

    def is_in_flight(self, request: RequestId) -> bool:
        """Whether the session that a request waits at is in a batch that runs."""
        session = self._at.get(request)
        return session is not None and session.in_flight

    def has_begun(self, request: RequestId) -> bool:
        """Whether a request is the first at its session, which is in a batch that runs or has taken a part of it."""
        session = self._at[request]
        return session.pending[0].id == request and (session.in_flight or session.num_consumed > 0)

    # -------------------------------------------------------------------------------------------------------- arrivals

    def open(self, request: OpenSession) -> None:
        """Start a session.

        Raises:
            ServiceError: It cannot be.
        """
        self._admission.require_steps(request)
        session = self.sessions.open(request, self._turn.now)
        self._turn.events.append(Finished(request.id, SessionSteps(session.num_steps)))

    def land(self, request: LandSession) -> None:
        """Start a session as it was in another engine.

        Raises:
            ServiceError: It cannot be.
        """
        session = self.sessions.land(request.session, request.carried)
        self._turn.events.append(Finished(request.id, SessionSteps(session.num_steps)))

    def end_lift(self, request: EndLift) -> None:
        """Let a session stay, or go without a word.

        Raises:
            SessionNotFound: It has ended.
        """
        session = self.sessions.find(request.session)
        assert not (request.gone and session.pending), "something waits at a session that is gone"
        self.sessions.end_lift(session, request.gone)
        self._turn.events.append(Finished(request.id, None))

    def admit(self, request: SessionRequest) -> None:
        """Let a request wait at its session.

        Raises:
            ServiceError: There is no such session, or the request cannot be taken.
        """
        if isinstance(request, STEPS):
            self._admit_step(request)
        else:
            self._admit_other(request)

    def _admit_step(self, request: Step) -> None:
        session = self.sessions.find(request.session)
        self._admission.check_step(request)
        self._require_place(session)
        self.num_inputs += request.num_steps
        self._queue(session, request)

    def _admit_other(self, request: SessionRequest) -> None:
        session = self.sessions.find(request.source if isinstance(request, ForkSession) else request.session)
        if isinstance(request, CloseSession):
            session.closing = True
        else:
            self._require_place(session)
        if isinstance(request, ForkSession):
            # There from now on, so that what is asked of it can wait at it; it moves once the fork has acted.
            self.sessions.announce(request.session, session, request.idle_timeout_s, self._turn.now)
        self._queue(session, request)

    def _require_place(self, session: Session) -> None:
        if len(session.pending) >= _MOST_PENDING:
            raise Overloaded(f"the session is at its limit: {_MOST_PENDING} requests wait at it", retry_after_s(0.0))

    def _queue(self, session: Session, request: SessionRequest) -> None:
        self._at[request.id] = session
        if request.deadline_s is not None:
            self._deadlines.add(request.deadline_s, request.id)
        if session.pending:
            session.pending.append(request)
            self._renew(session)
        else:
            session.pending = [request]
            if not session.in_flight:
                self._promote(session)

    def _renew(self, session: Session) -> None:
        """Tell the queue how much a session that is in it could take in one run now."""
        most = self._max_chunk
        if most > 1 and session.id in self._ready:
            session.work = session.work._replace(length=session.backlog(most))
            self._ready.add(session.work)

    def _promote(self, session: Session) -> None:
        """Deal with what is pending at a session until a step has to run; the session is in no batch and not ready."""
        if type(session.pending[0]) is not LiftSession:  # being moved is no use
            session.last_used_s = self._turn.now
        while session.pending:
            head = session.pending[0]
            if isinstance(head, STEPS):
                event = session.check_index(head) if session.num_consumed == 0 else None
                if event is None:
                    most = self._max_chunk
                    length = 1 if most == 1 else session.backlog(most)
                    key = self._turn.key(session.priority)
                    session.work = WorkItem(session.id, "step", 1, length, 1, key, session.group())
                    session.ready_since_s = self._turn.now
                    self._ready.add(session.work)
                    return
                session.pop()
                self._end_step(head, event)
            else:
                session.pop()
                del self._at[head.id]
                try:
                    value = self._act(session, head)
                except ServiceError as error:
                    self._turn.fail(head.id, error)
                    self._call_off(head)
                else:
                    self._turn.events.append(Finished(head.id, value))
                    if isinstance(head, ForkSession):
                        self._arrive(self.sessions.find_open(head.session))
        session.rest()

    def _act(self, session: Session, request: SessionRequest) -> object:
        """Do what needs no run; gives the value of its Finished."""
        num_steps = session.num_steps
        late = request.deadline_s is not None and request.deadline_s <= self._turn.now
        if late and not isinstance(request, CloseSession):  # a close is for who comes after
            raise DeadlineExceeded("the deadline came before the answer could be ready")
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
            case LiftSession():
                return self.sessions.lift(session)
        return SessionSteps(num_steps)

    def _arrive(self, session: Session) -> None:
        """Let a forked session begin with what waits at it; it is idle from now on, not from when it was announced."""
        session.in_flight = False
        session.last_used_s = self._turn.now
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
        del self._at[request.id]
        self.num_inputs -= request.num_steps
        self._turn.events.append(event)

    def end(self, session: Session, error: ServiceError) -> None:
        """End a session whose state is not known any more, with all that it has pending."""
        self._turn.events.append(SessionEnded(session.id, expired=False, num_steps=session.num_steps))
        self._abandon(session, error)

    def _abandon(self, session: Session, error: ServiceError) -> None:
        """End a session and fail all that it has pending."""
        self._ready.discard(session.id)
        for request in list(session.pending):
            session.pop()
            if isinstance(request, STEPS):
                self._end_step(request, Failed(request.id, error))
            else:
                del self._at[request.id]
                self._turn.events.append(Failed(request.id, error))
                self._call_off(request)
        self.sessions.end(session)

    # ------------------------------------------------------------------------------------------------ runs, and the end

    def settle(self, session: Session, events: Sequence[Event]) -> None:
        """Take in what a run gave a session."""
        for event, request in zip(events, session.answered, strict=True):
            if self._kept_answers and isinstance(request, StepSession):
                assert isinstance(event, Finished)
                assert isinstance(event.value, StepOutputs)
                session.keep(event.value, request.inputs, self._kept_answers)
            del self._at[request.id]
            self.num_inputs -= request.num_steps
            self._turn.num_stepped += request.num_steps
            self._turn.events.append(event)
        session.answered = ()
        if session.dropped is not None:
            self._drop_pending(session)
        session.last_used_s = self._turn.now
        if session.pending:
            self._promote(session)
        else:
            session.rest()

    def _drop_pending(self, session: Session) -> None:
        dropped, session.dropped = session.dropped, None
        for request, event in (dropped or {}).items():
            if request in self._at:
                self._drop(session, request, event)

    def stop(self, request: RequestId, event: Event) -> None:
        """End a request with an event, at once or when what runs comes back; unknown ones are left alone."""
        session = self._at.get(request)
        if session is None:
            return
        if session.in_flight:
            if session.dropped is None:
                session.dropped = {}
            session.dropped.setdefault(request, event)
        else:
            self._drop(session, request, event)
            if session.pending and session.id not in self._ready:
                self._promote(session)
            elif not session.pending:
                session.rest()

    def expire(self) -> None:
        """End the sessions that were idle for too long."""
        for session in self.sessions.take_idle(self._turn.now):
            self.sessions.num_expired += 1
            self.sessions.end(session)
            self._turn.events.append(SessionEnded(session.id, expired=True, num_steps=session.num_steps))

    def end_all(self, error: ServiceError) -> None:
        """End every session, even where a bug has left the books wrong."""
        for session in self.sessions:
            try:
                if self.sessions.is_open(session):  # a fork that is called off takes its session along
                    self.end(session, error)
            except Exception:
                _log.exception("session %d ended with its books wrong", session.id)

    def check_integrity(self) -> None:
        """Prove that what waits is what the sessions have pending.

        Raises:
            IntegrityError: It is not.
        """
        self.sessions.check_integrity()
        pending = {request.id for session in self.sessions for request in session.pending}
        if pending != self._at.keys():
            raise IntegrityError(f"expected {sorted(self._at)} to wait at sessions, got {sorted(pending)}")

    def _drop(self, session: Session, request_id: RequestId, event: Event) -> None:
        """Take a request out of a session's list, unless it has begun.

        A step is taken whole or not at all, unless nobody will ask where it led: nothing but the close comes after it.
        """
        place, request = next((i, r) for i, r in enumerate(session.pending) if r.id == request_id)
        if isinstance(request, CloseSession):
            return
        if place == 0 and session.num_consumed:
            if not session.closing:
                return
            if not isinstance(session.pending[1], CloseSession):  # it may be the next before this step has ended
                session.dropped = {**(session.dropped or {}), request_id: event}
                return
            session.num_steps -= session.num_consumed
        if place == 0:
            self._ready.discard(session.id)
            session.pop()
        else:
            del session.pending[place]
            self._renew(session)
        if isinstance(request, STEPS):
            self._end_step(request, event)
        else:
            del self._at[request_id]
            self._turn.events.append(event)
            self._call_off(request)
