"""Who is here, what each holds, and what each wants next.

The roster turns requests into tasks, gives them slots and memory in the order in which they came, and is the only one
that ends them: `_end` emits the one terminal event and takes everything back. It belongs to the engine thread.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

from export.manifest import Manifest
from service.engine.admission import Admission
from service.engine.deadlines import Deadlines
from service.engine.integrity import IntegrityError, check_holdings
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
from service.engine.pages import PAGE_ROWS, MemoryPages
from service.engine.schedule import WorkItem
from service.engine.slots import SlotTable
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
        self.slots = SlotTable(num_slots)
        self.pages = MemoryPages(num_memory_rows)
        self._admission = Admission(manifest, self.slots.num_usable, self.pages.num_usable_rows)
        self._max_sessions = max_sessions
        self._retry_after_s = retry_after_s
        self._tasks: dict[RequestId, Task] = {}
        self._waiting: dict[RequestId, Task] = {}  # for slots and memory, first come first served
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
            self._waiting[request.id] = task
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
        slots = self.slots.allocate(1) if len(self._sessions) < self._max_sessions else None
        if slots is None:
            limit = f"{len(self._sessions)} sessions are open and {self.slots.num_free} slots are free"
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
        self.slots.free((session.slot,))

    # ------------------------------------------------------------------------------------------------------------ work

    def ready(self) -> list[WorkItem]:
        """What could run now, the longest waiting first, after starting whoever there is room for."""
        self._start_waiting()
        return list(self._ready.values())

    def _start_waiting(self) -> None:
        while task := self._next_to_start():
            del self._waiting[task.request.id]
            slots = self.slots.allocate(task.num_slots)
            assert slots is not None
            task.begin(slots, self.pages.allocate(task.num_positions) if task.num_positions else None)
            self._ready[task.request.id] = task.work

    def _next_to_start(self) -> Task | None:
        """Who waits longest, if there is room; nobody overtakes, or wide beams would wait for ever."""
        task = next(iter(self._waiting.values()), None)
        if task is None or task.num_slots > self.slots.num_free:
            return None
        return task if self.pages.num_pages(task.num_positions) * PAGE_ROWS <= self.pages.num_free_rows else None

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

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next, on the engine's clock."""
        return self._deadlines.next(self._tasks)

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
        self._end_session(session)
        for request in pending:
            if isinstance(request, CloseSession):
                self.events.append(Failed(request.id, error))
            else:
                self._end(request, Failed(request.request.id, error))

    def end_all(self, error: ServiceError) -> None:
        """End every request and every session."""
        for task in list(self._tasks.values()):
            self.fail(task, error)
        for session in list(self._sessions.values()):
            self._end_session(session)

    def _end(self, task: Task, event: Event) -> None:
        """The one place where a task ends: one terminal event, everything that it held back where it belongs."""
        request = task.request.id
        del self._tasks[request]
        self._ready.pop(request, None)
        self._waiting.pop(request, None)
        self.events.append(event)
        if task.slots:
            self.slots.free(task.slots)
        if task.memory is not None:
            self.pages.free(task.memory)
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
        return bool(self._ready) or self._next_to_start() is not None

    @property
    def num_tasks(self) -> int:
        """Requests between admission and their end."""
        return len(self._tasks)

    @property
    def num_new(self) -> int:
        """Those of them that are new work and have not started."""
        return len(self._waiting) + self._num_sequences

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
        slots = [slot.row for task in self._tasks.values() for slot in task.slots]
        slots += [session.slot.row for session in self._sessions.values()]
        pages = [page for task in self._tasks.values() if task.memory for page in task.memory.pages]
        check_holdings("slots", slots, self.slots.num_free, self.slots.num_usable)
        num_pages = (self.pages.num_free_rows // PAGE_ROWS, self.pages.num_usable_rows // PAGE_ROWS)
        check_holdings("pages", pages, *num_pages)
        if stray := (self._ready.keys() | self._waiting.keys()) - self._tasks.keys():
            raise IntegrityError(f"expected every task to be known, got {sorted(stray)}")
