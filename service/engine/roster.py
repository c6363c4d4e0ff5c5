"""Who is here, what each holds, and what each wants next.

The roster turns requests into tasks, keeps the sessions, and is the only one that ends either: `_end` emits the one
terminal event and takes everything back. It belongs to the engine thread.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

from export.manifest import Manifest
from service.engine.admission import Admission
from service.engine.deadlines import Deadlines
from service.engine.integrity import IntegrityError
from service.engine.interface import (
    Cancelled,
    CloseSession,
    Event,
    Failed,
    Finished,
    OpenSession,
    Request,
    RequestId,
    SessionId,
    StepSession,
    TokensDecided,
)
from service.engine.room import Room
from service.engine.schedule import WorkItem
from service.engine.tasks.sequence import SequenceTask
from service.engine.tasks.session import Session, SessionStepTask
from service.engine.tasks.task import Task
from service.errors import (
    DeadlineExceeded,
    InternalFailure,
    Overloaded,
    ServiceError,
    SessionClosed,
    SessionNotFound,
)

_log = logging.getLogger(__name__)


class Roster:
    """Everybody between admission and the terminal event.

    Args:
        manifest: Of the model: which graphs there are and what they take.
        num_slots: Rows of the state pool.
        num_memory_rows: Rows of the attention memory.
        max_sessions: Most sessions open at a time.
        retry_after_s: Tells when to come back, given how many wait, in seconds.
    """

    def __init__(
        self,
        manifest: Manifest,
        num_slots: int,
        num_memory_rows: int,
        max_sessions: int,
        retry_after_s: Callable[[int], float],
    ) -> None:
        self.events: list[Event] = []  # since the last publishing
        self.room = Room(num_slots, num_memory_rows)
        # A model that attends has no sessions; all slots are for requests. What requests may need is never less than
        # what sessions leave: whoever is admitted gets it when those before have ended, which they do.
        self._max_sessions = 0 if manifest.memories else max_sessions
        num_slots_left = self.room.slots.num_usable - self._max_sessions
        self._admission = Admission(manifest, num_slots_left, self.room.pages.num_usable_rows)
        self._retry_after_s = retry_after_s
        self._tasks: dict[RequestId, Task] = {}
        self._ready: dict[RequestId, WorkItem] = {}  # the longest waiting first
        self._sessions: dict[SessionId, Session] = {}
        self._deadlines = Deadlines()
        self._num_steps = 0  # unfinished session steps
        self._num_sequences = 0

    # -------------------------------------------------------------------------------------------------------- arrivals

    def admit(self, request: Request) -> None:
        """Turn a request into a task, or into its one event where that can be said at once."""
        try:
            match request:
                case StepSession():
                    self._admit_step(request)
                case CloseSession():
                    self._admit_close(request)
                case OpenSession():
                    self._open(request)
                case _:
                    self._admit_work(request)
        except ServiceError as error:
            self.events.append(Failed(request.id, error))
        except Exception:
            _log.exception("request %d could not be admitted", request.id)
            self.events.append(Failed(request.id, InternalFailure("the request could not be started")))

    def _admit_work(self, request: Request) -> None:
        task = self._admission.task(request)
        self._add(task)
        if task.num_slots:
            self.room.wait(task)
        else:
            self._ready[request.id] = task.work

    def _add(self, task: Task) -> None:
        self._tasks[task.request.id] = task
        if task.request.deadline_s is not None:
            self._deadlines.add(task.request.deadline_s, task.request.id)
        if isinstance(task, SessionStepTask):
            self._num_steps += 1
        elif isinstance(task, SequenceTask):
            self._num_sequences += 1

    # -------------------------------------------------------------------------------------------------------- sessions

    def _open(self, request: OpenSession) -> None:
        self._admission.require_steps(request)
        self._start_waiting()  # they came before
        if len(self._sessions) >= self._max_sessions:
            limit = f"{self._max_sessions} sessions are open"
            raise Overloaded(f"the model is at its limit: {limit}", self._retry_after_s(1))
        slots = self.room.slots.allocate(1)
        if slots is None:
            limit = f"{self.room.slots.num_usable} sequences are in progress"
            raise Overloaded(f"the model is at its limit: {limit}", self._retry_after_s(1))
        self._sessions[request.session] = Session(request.session, slots[0])
        self.events.append(Finished(request.id, None))

    def _session(self, session_id: SessionId) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionNotFound(f"session {session_id}: expected an open session")
        if session.closing:
            raise SessionClosed(f"session {session_id}: expected nothing after its close")
        return session

    def _admit_step(self, request: StepSession) -> None:
        session = self._session(request.session)
        task = self._admission.step(request, session)
        self._add(task)
        session.pending.append(task)
        self._promote(session)

    def _admit_close(self, request: CloseSession) -> None:
        session = self._session(request.session)
        session.closing = True
        session.pending.append(request)
        self._promote(session)

    def _promote(self, session: Session) -> None:
        """Let the first pending request of a session be worked on."""
        if not session.pending:
            return
        head = session.pending[0]
        if isinstance(head, CloseSession):
            self._end_session(session)
            self.events.append(Finished(head.id, session.num_steps))
        elif head.request.id not in self._ready:
            head.resume()
            self._ready[head.request.id] = head.work

    def _end_session(self, session: Session) -> None:
        del self._sessions[session.id]
        self.room.slots.free((session.slot,))

    # ------------------------------------------------------------------------------------------------------------ work

    def ready(self) -> list[WorkItem]:
        """What could run now, the longest waiting first, after starting whoever there is room for."""
        self._start_waiting()
        return list(self._ready.values())

    def _start_waiting(self) -> None:
        for task in self.room.start():
            self._ready[task.request.id] = task.work

    def take(self, requests: Iterable[RequestId]) -> list[Task]:
        """The tasks of a batch, which are ready no more."""
        for request in requests:
            del self._ready[request]
        return [self._tasks[request] for request in requests]

    def settle(self, task: Task, events: Sequence[Event]) -> None:
        """Take in what came of a task's run."""
        for event in events:
            if isinstance(event, TokensDecided):
                self.events.append(event)
            else:
                self._end(task, event)
                return
        self._ready[task.request.id] = task.work

    # -------------------------------------------------------------------------------------------------------- the end

    def cancel(self, request: RequestId) -> None:
        """End a request as cancelled; unknown and ended ones, and closes, are left alone."""
        if task := self._tasks.get(request):
            self._end(task, Cancelled(request))

    def expire(self, now: float) -> None:
        """End the requests whose deadline has passed."""
        for request in self._deadlines.due(now):
            if task := self._tasks.get(request):
                self._end(task, Failed(request, DeadlineExceeded("the deadline passed before the answer was ready")))

    def fail(self, task: Task, error: ServiceError) -> None:
        """End a task whose run broke; a session whose state is no longer known ends with all that it has pending."""
        if task.request.id not in self._tasks:
            return
        if not isinstance(task, SessionStepTask):
            self._end(task, Failed(task.request.id, error))
            return
        session = task.session
        pending = list(session.pending)
        session.pending.clear()
        for request in pending:
            if isinstance(request, CloseSession):
                self.events.append(Failed(request.id, error))
            else:
                self._end(request, Failed(request.request.id, error))
        self._end_session(session)

    def end_all(self, error: ServiceError) -> None:
        """End every request and every session, even where a bug has left the books wrong."""
        for task in list(self._tasks.values()):
            try:
                self.fail(task, error)
            except Exception:  # its event is out: what is held comes last
                _log.exception("request %d ended with its books wrong", task.request.id)
        for session in list(self._sessions.values()):
            self._end_session(session)

    def _end(self, task: Task, event: Event) -> None:
        """The one place where a task ends: one terminal event, everything that it held back where it belongs."""
        request = task.request.id
        del self._tasks[request]
        self._ready.pop(request, None)
        self.events.append(event)
        self.room.leave(task)
        if isinstance(task, SequenceTask):
            self._num_sequences -= 1
        elif isinstance(task, SessionStepTask):
            self._num_steps -= 1
            session = task.session
            if session.pending:
                session.pending.remove(task)
                self._promote(session)

    # ----------------------------------------------------------------------------------------------------------- counts

    @property
    def has_ready(self) -> bool:
        """Whether anything could run without anybody arriving."""
        return bool(self._ready) or self.room.can_start

    @property
    def num_tasks(self) -> int:
        """Requests between admission and their end."""
        return len(self._tasks)

    @property
    def num_new(self) -> int:
        """Those of them that are new work and have not started."""
        return self.room.num_waiting + self._num_sequences

    @property
    def num_steps(self) -> int:
        """Those of them that step a session."""
        return self._num_steps

    @property
    def num_sessions(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    def check_integrity(self) -> None:
        """Prove that every slot and page is either free or held by exactly one task or session.

        Raises:
            IntegrityError: Something was lost or given out twice.
        """
        self.room.check_integrity(self._tasks.values(), (session.slot for session in self._sessions.values()))
        if stray := self._ready.keys() - self._tasks.keys():
            raise IntegrityError(f"expected those who are ready to be known, got {sorted(stray)}")
        if self._tasks and not self.has_ready:
            raise IntegrityError(f"expected something to run while requests wait, got {len(self._tasks)} that wait")
