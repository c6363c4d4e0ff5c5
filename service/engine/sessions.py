"""All open sessions of a model: in the pool while they step, in host memory when the slots are needed for others.

Slots go to the sessions used last. Whoever is about to step is brought in, and the least recently used leave, a batch
at a time. Only states are moved: who has never stepped has none.
"""

import heapq
from collections.abc import Iterator, Sequence
from typing import Final

from service.engine.host import HostRow, HostStates
from service.engine.integrity import IntegrityError
from service.engine.interface import (
    CarriedSession,
    OpenSession,
    Priority,
    SessionDescription,
    SessionId,
    StateTensors,
)
from service.engine.session import Session
from service.engine.slots import INITIAL_SLOT, Slot, SlotTable
from service.errors import InternalFailure, MarkNotFound, Overloaded, ServiceError, SessionClosed, SessionNotFound

_SHORTEST_LOOK_S: Final = 0.001
_SWEEP_FROM: Final = 64  # sessions that ended that the heap of timers may have whatever its size


class Sessions:
    """See the module docstring. Time is an argument, in seconds on the engine's clock.

    Args:
        host: Keeps the states that are not in the pool.
        slots: Where slots come from.
        num_slots: Most of them that sessions may hold.
        max_sessions: Most open at a time.
        max_host_bytes: Most bytes of states in host memory, marks included.
        max_marks: Most marks of a session.
        make: The kind of its sessions.
    """

    def __init__(
        self,
        host: HostStates,
        slots: SlotTable,
        num_slots: int,
        max_sessions: int,
        max_host_bytes: int,
        max_marks: int,
        make: type[Session] = Session,
    ) -> None:
        self._make = make
        self._host, self._slots = host, slots
        self._num_slots, self._max_sessions = num_slots, max_sessions
        self.max_host_bytes, self._max_marks = max_host_bytes, max_marks
        self._open: dict[SessionId, Session] = {}
        self._resident: dict[SessionId, Session] = {}  # the least recently used first
        # A heap by `look_s`, looked at when due, not when a session is used. Those that ended are swept out later.
        self._timers: list[Session] = []
        self._num_ended = 0  # sessions in there that have ended
        self._num_marks = 0
        self._num_packed = 0  # sessions whose state is in host memory
        self._lifted: set[SessionId] = set()  # on their way to or from another engine: they do not expire
        self.num_expired = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._open.values()))

    @property
    def host_bytes(self) -> int:
        """Most bytes that the sessions and marks of now can take in host memory.

        Nobody leaves the pool before it is full, so there can be as many outside as slots do not suffice for.
        """
        outside = max(self._num_packed, len(self._open) - self._num_slots)
        return (outside + self._num_marks) * self._host.num_bytes

    @property
    def held(self) -> list[Slot]:
        """All slots that sessions hold."""
        return [session.slot for session in self._resident.values() if session.slot is not None]

    # ------------------------------------------------------------------------------------------------- opening, ending

    def open(self, request: OpenSession, now: float) -> Session:
        """Open a session.

        Raises:
            Overloaded: There are too many, or host memory would not hold another.
            InvalidInput: Its initial state does not fit the model.
        """
        packed = None if request.initial is None else self._host.put(request.initial)
        return self._add(request.session, now, request.idle_timeout_s, request.priority, packed, request.num_steps)

    def announce(self, session: SessionId, source: Session, idle_timeout_s: float | None, now: float) -> None:
        """Open a session that will begin where another is by then; until `fork` it counts as in flight.

        Raises:
            Overloaded: As `open`.
        """
        self._add(session, now, idle_timeout_s, source.priority, None, 0).in_flight = True

    def fork(self, source: Session, announced: Session) -> None:
        """Copy the state of a session, which is in no batch, to one that was announced.

        Raises:
            Overloaded: Host memory would not hold it.
        """
        if source.started or source.packed is not None:
            self._require_host_bytes(len(self._open), self._num_packed + 1)
        self._pack(announced, self._copy(source))
        announced.num_steps = source.num_steps

    def _add(
        self,
        session_id: SessionId,
        now: float,
        idle_timeout_s: float | None,
        priority: Priority,
        packed: HostRow | None,
        num_steps: int,
    ) -> Session:
        try:
            self._require_room(session_id, packed)
        except ServiceError:
            if packed is not None:
                self._host.free(packed)
            raise
        session = self._open[session_id] = self._make(session_id, now, idle_timeout_s, priority, None, num_steps)
        self._pack(session, packed)
        if idle_timeout_s is not None:
            heapq.heappush(self._timers, session)
        return session

    def _require_room(self, session_id: SessionId, packed: HostRow | None) -> None:
        if session_id in self._open:
            raise InternalFailure(f"session {session_id} is open already")
        if len(self._open) >= self._max_sessions:
            raise Overloaded(f"the model is at its limit: {self._max_sessions} sessions are open", 1.0)
        self._require_host_bytes(len(self._open) + 1, self._num_packed + (packed is not None))

    def find(self, session_id: SessionId) -> Session:
        """Find a session that takes requests.

        Raises:
            SessionNotFound: It is not open.
            SessionClosed: Its close is on its way.
        """
        session = self._open.get(session_id)
        if session is None:
            raise SessionNotFound(f"session {session_id}: expected an open session")
        if session.closing:
            raise SessionClosed(f"session {session_id}: expected nothing after its close")
        return session

    def find_open(self, session_id: SessionId) -> Session:
        """The session of that id, which is open, closing or not."""
        return self._open[session_id]

    def end(self, session: Session) -> None:
        """Forget a session, which is in no batch, and free what it held."""
        del self._open[session.id]
        self._lifted.discard(session.id)
        self._leave_pool(session)
        self._pack(session, None)
        if session.marks:
            self._num_marks -= len(session.marks)
            for packed, _ in session.marks.values():
                self._forget(packed)
            session.marks = None
        if session.idle_timeout_s is not None:
            self._num_ended += 1
            if self._num_ended > _SWEEP_FROM + len(self._timers) // 2:
                self._timers = [one for one in self._timers if self.is_open(one)]
                heapq.heapify(self._timers)
                self._num_ended = 0

    def is_open(self, session: Session) -> bool:
        """Whether it has not ended."""
        return self._open.get(session.id) is session

    # ----------------------------------------------------------------------------------------------------------- idling

    def take_idle(self, now: float) -> list[Session]:
        """Find the sessions that have had nothing to do for their idle timeout; they are still open."""
        idle = []
        while self._timers and self._timers[0].look_s <= now:
            session = heapq.heappop(self._timers)
            timeout_s = session.idle_timeout_s
            if timeout_s is None or not self.is_open(session):
                self._num_ended -= 1
                continue
            busy = bool(session.pending) or session.in_flight or session.id in self._lifted
            # A busy session is never idle, however short its timeout; and time must pass before the next look.
            session.look_s = now + max(timeout_s, _SHORTEST_LOOK_S) if busy else session.last_used_s + timeout_s
            if busy or session.look_s > now:
                heapq.heappush(self._timers, session)
            else:
                session.idle_timeout_s = None  # it is in the heap no more
                idle.append(session)
        return idle

    @property
    def next_look_s(self) -> float | None:
        """When `take_idle` has something to look at."""
        return self._timers[0].look_s if self._timers else None

    # -------------------------------------------------------------------------------------------------------- residence

    def bring_in(self, sessions: Sequence[Session]) -> list[Session]:
        """Give each session a slot with its state, as far as slots go; none of them is in flight.

        Returns:
            Those that have one now, in order.
        """
        resident = self._resident
        newcomers = []
        for session in sessions:  # the ones used last stand last, so that those before them leave
            if session.slot is None:
                newcomers.append(session)
            else:
                del resident[session.id]
                resident[session.id] = session
        if not newcomers:
            return list(sessions)
        self._make_room(len(newcomers), {session.id for session in sessions})
        moved = []
        for session in newcomers:
            taken = self._slots.allocate(1) if len(resident) < self._num_slots else None
            if taken is None:
                break
            session.slot = taken[0]
            resident[session.id] = session
            if session.packed is not None:
                moved.append(session)
        if moved:
            self._host.copy_in([s.slot.row for s in moved if s.slot], [s.packed for s in moved if s.packed is not None])
            for session in moved:
                self._pack(session, None)
                session.started = True
        return [session for session in sessions if session.slot is not None]

    def _make_room(self, count: int, staying: set[SessionId]) -> None:
        """Move the least recently used out until `count` slots are free for sessions, as far as that is possible."""
        free = min(self._num_slots - len(self._resident), self._slots.num_free)
        leaving: list[Session] = []
        if free >= count:
            return
        for session in self._resident.values():
            if not session.in_flight and session.id not in staying:
                leaving.append(session)
                if free + len(leaving) >= count:
                    break
        stepped = [session for session in leaving if session.started]
        if stepped:
            for session, packed in zip(
                stepped, self._host.copy_out([s.slot.row for s in stepped if s.slot]), strict=True
            ):
                self._pack(session, packed)
        for session in leaving:
            self._leave_pool(session)

    def _leave_pool(self, session: Session) -> None:
        if session.slot is not None:
            del self._resident[session.id]
            self._slots.free((session.slot,))
            session.slot, session.started = None, False

    # ---------------------------------------------------------------------------------- from one engine to another one

    def lift(self, session: Session) -> CarriedSession:
        """Copy all of a session, which is in no batch; it does not expire until `end_lift`."""
        self._lifted.add(session.id)
        stepped = session.started or session.packed is not None
        marks = (session.marks or {}).items()
        return CarriedSession(
            self.tensors(session) if stepped else None,
            session.num_steps,
            tuple((mark, None if at is None else self._host.tensors(at), steps) for mark, (at, steps) in marks),
            session.answers,
            session.opened_s,
            session.last_used_s,
            session.idle_timeout_s,
            session.priority,
        )

    def land(self, session_id: SessionId, carried: CarriedSession) -> Session:
        """Open a session as it was lifted elsewhere; it does not expire until `end_lift`.

        Raises:
            Overloaded: As `open`.
        """
        num_packed = self._num_packed + (carried.tensors is not None)
        self._require_host_bytes(len(self._open) + 1, num_packed, self._num_marks + len(carried.marks))
        packed = None if carried.tensors is None else self._host.put(carried.tensors)
        session = self._add(
            session_id, carried.last_used_s, carried.idle_timeout_s, carried.priority, packed, carried.num_steps
        )
        session.opened_s, session.answers = carried.opened_s, carried.answers
        if carried.marks:
            session.marks = {
                mark: (None if tensors is None else self._host.put(tensors), num_steps)
                for mark, tensors, num_steps in carried.marks
            }
            self._num_marks += len(carried.marks)
        self._lifted.add(session_id)
        return session

    def end_lift(self, session: Session, gone: bool) -> None:
        """Let a session go on as any other, or forget it: it is elsewhere."""
        self._lifted.discard(session.id)
        if gone:
            self.end(session)
        elif session.idle_timeout_s is not None and session.look_s > session.last_used_s + session.idle_timeout_s:
            session.look_s = session.last_used_s + session.idle_timeout_s  # its time came while it was not to expire
            heapq.heapify(self._timers)

    # ----------------------------------------------------------------------------------------------- copies of a state

    def tensors(self, session: Session) -> StateTensors:
        """Copy the state of a session that is in no batch."""
        if session.slot is not None and session.started:
            return self._host.tensors_of(session.slot.row)
        return self._host.tensors_of(INITIAL_SLOT) if session.packed is None else self._host.tensors(session.packed)

    def _copy(self, session: Session) -> HostRow | None:
        """Copy the state of a session that is in no batch into host memory; None is the initial state."""
        if session.slot is not None and session.started:
            return self._host.copy_out([session.slot.row])[0]
        return None if session.packed is None else self._host.duplicate(session.packed)

    def mark(self, session: Session, mark: int) -> None:
        """Remember where a session is, in place of what had that mark.

        Raises:
            Overloaded: The session has too many marks, or host memory would not hold another.
        """
        marks = session.marks or {}
        if mark not in marks:
            if len(marks) >= self._max_marks:
                raise Overloaded(f"the session is at its limit: it has {self._max_marks} marks", 0.0)
            self._require_host_bytes(len(self._open), self._num_packed, self._num_marks + 1)
            self._num_marks += 1
        else:
            self._forget(marks[mark][0])
        marks[mark] = (self._copy(session), session.num_steps)
        session.marks = marks

    def rewind(self, session: Session, mark: int) -> None:
        """Take a session back to a mark.

        Raises:
            MarkNotFound: It has none of that number.
            Overloaded: Host memory would not hold the state.
        """
        if session.marks is None or mark not in session.marks:
            raise MarkNotFound(f"rewind.mark: expected one of {sorted(session.marks or ())}, got {mark}")
        packed, num_steps = session.marks[mark]
        if session.slot is None:
            self._require_host_bytes(
                len(self._open), self._num_packed + (session.packed is None and packed is not None)
            )
            self._pack(session, None if packed is None else self._host.duplicate(packed))
        else:
            if packed is not None:
                self._host.copy_in([session.slot.row], [packed])
            session.started = packed is not None
        session.answers, session.num_steps = (), num_steps

    def describe(self, sessions: Sequence[SessionId], now: float) -> tuple[SessionDescription, ...]:
        """Describe those that are open."""
        found = [session for session in map(self._open.get, sessions) if session is not None]
        found = [
            session for session in found if session.slot is not None or not session.in_flight
        ]  # not announced ones
        return tuple(
            SessionDescription(
                s.id,
                now - s.opened_s,
                now - s.last_used_s,
                s.num_steps,
                tuple(s.marks or ()),
                s.idle_timeout_s,
                s.priority,
            )
            for s in found
        )

    def _pack(self, session: Session, packed: HostRow | None) -> None:
        """Set where in host memory the state of a session is; what was there is freed."""
        self._num_packed += (packed is not None) - (session.packed is not None)
        self._forget(session.packed)
        session.packed = packed

    def _forget(self, packed: HostRow | None) -> None:
        if packed is not None:
            self._host.free(packed)

    def _require_host_bytes(self, num_open: int, num_packed: int, num_marks: int | None = None) -> None:
        """Make sure that whatever has to go to host memory will find room there."""
        num_states = max(num_packed, num_open - self._num_slots) + (self._num_marks if num_marks is None else num_marks)
        if num_states * self._host.num_bytes > self.max_host_bytes:
            limit = f"{self.max_host_bytes} bytes of session states in host memory"
            raise Overloaded(f"the model is at its limit: {limit}", 1.0)

    def check_integrity(self) -> None:
        """Prove what must always hold of residence.

        Raises:
            IntegrityError: It does not.
        """
        for session in self._open.values():
            if (session.slot is not None) != (session.id in self._resident):
                raise IntegrityError(f"session {session.id}: expected a slot just if resident, got {session.slot}")
            if session.packed is not None and session.started:
                raise IntegrityError(f"session {session.id}: expected its state in one place, got two")
        if stray := self._resident.keys() - self._open.keys():
            raise IntegrityError(f"expected residents to be open, got {sorted(stray)}")
        if stray := self._lifted - self._open.keys():
            raise IntegrityError(f"expected who is on the way to be open, got {sorted(stray)}")
        if sum(session.packed is not None for session in self._open.values()) != self._num_packed:
            raise IntegrityError(f"expected {self._num_packed} packed sessions")
        in_marks = [packed for session in self._open.values() for packed, _ in (session.marks or {}).values()]
        held = self._num_packed + sum(packed is not None for packed in in_marks)
        if held != self._host.num_held:
            raise IntegrityError(f"expected {held} states in host memory, got {self._host.num_held}")
        if sum(len(session.marks or ()) for session in self._open.values()) != self._num_marks:
            raise IntegrityError(f"expected {self._num_marks} marks in all")
