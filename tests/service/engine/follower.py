"""Follows what is asked of an engine and what it says, and holds every event against the reference.

Nothing is taken from the engine but its events. Each must be what its session, alone, may answer at that moment.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

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
    Generate,
    MarkSession,
    OpenSession,
    RequestId,
    RewindSession,
    SessionEnded,
    SessionId,
    SessionState,
    SessionSteps,
    StepOutputs,
    StepSession,
    TokensDecided,
)
from service.engine.limits import EngineLimits
from service.errors import (
    DeadlineExceeded,
    InternalFailure,
    InvalidInput,
    MarkNotFound,
    Overloaded,
    ServiceError,
    SessionClosed,
    SessionNotFound,
    ShuttingDown,
    StepMismatch,
)
from tests.service.engine.reference import INITIAL, TOP_K, History, State, as_answer, greedy

END_ID = 3
AtSession = StepSession | CloseSession | ForkSession | MarkSession | RewindSession | ExportSession


@dataclass
class Following:
    """One open session.

    Args:
        histories: All that is possible.
        idle_timeout_s: As it was opened.
        waiting: Its requests without an end, in order of submission.
        closing: Whether its close was submitted.
        active_s: Last time at which the engine dealt with a request of it.
        touched_s: Last time at which anything was asked or answered.
    """

    histories: frozenset[History]
    idle_timeout_s: float | None
    active_s: float
    touched_s: float
    waiting: list[RequestId] = field(default_factory=list)
    closing: bool = False


class Follower:
    """See the module docstring. Safe from any thread, as long as each session is asked by one at a time.

    Args:
        limits: Of the engine.
        state_bytes: Of one session.
        clock: The engine's.
        exact_time: Whether time stands still while the engine works, so that expiry can be foretold.
    """

    def __init__(
        self, limits: EngineLimits, state_bytes: int, clock: Callable[[], float], exact_time: bool = True
    ) -> None:
        self.limits, self.state_bytes, self.clock, self.exact_time = limits, state_bytes, clock, exact_time
        self.longest_run_s = 0.0  # so far
        self.changed = threading.Condition(threading.RLock())
        self.requests: dict[RequestId, AnyRequest] = {}
        self.unended: set[RequestId] = set()
        self.open: dict[SessionId, Following] = {}
        self.exported: list[tuple[State, int]] = []
        self.answered: list[tuple[StepSession, StepOutputs]] = []
        self.cancelled: set[RequestId] = set()
        self.may_break: set[int] = set()  # sessions and requests that were in a batch that broke
        self.num_broken = 0
        self.shutting_down = False
        self.counts: dict[str, int] = {}  # what was seen, so that a test can tell that it tried it
        self.faults: list[Exception] = []
        self._broken: set[RequestId] = set()
        self._submitted_s: dict[RequestId, float] = {}
        self._text: dict[RequestId, list[int]] = {}

    # ----------------------------------------------------------------------------------------------------------- asking

    def ask(self, request: AnyRequest, submit: Callable[[AnyRequest], None]) -> None:
        """Submit a request. It is taken, but for new work that would have to wait beyond its deadline."""
        with self.changed:
            assert request.id not in self.requests
            self.requests[request.id] = request
            self.unended.add(request.id)
            self._submitted_s[request.id] = self.clock()
            following = self._asked(request)
            if following is not None:
                following.waiting.append(request.id)
                following.touched_s = self.clock()
        try:
            submit(request)
        except DeadlineExceeded:
            assert isinstance(request, Generate) and request.deadline_s is not None
            with self.changed:
                self.unended.remove(request.id)

    def cancel(self, request: RequestId, cancel: Callable[[RequestId], None]) -> None:
        """Cancel a request, which may be over or never have been."""
        with self.changed:
            self.cancelled.add(request)
        cancel(request)

    def _asked(self, request: AnyRequest) -> Following | None:
        if isinstance(request, ForkSession):
            return self.open.get(request.source)
        return self.open.get(request.session) if isinstance(request, AtSession) else None

    # ---------------------------------------------------------------------------------------------------------- hearing

    def hear(self, events: Sequence[Event]) -> None:
        """Take what the engine publishes. An engine survives who cannot take its events, so faults are kept."""
        with self.changed:
            for event in events:
                try:
                    self._hear(event)
                except Exception as fault:
                    self.faults.append(fault)
            self.changed.notify_all()

    def check(self) -> None:
        """Raise what was wrong with the events until now."""
        if self.faults:
            raise self.faults[0]

    def _hear(self, event: Event) -> None:
        if isinstance(event, SessionEnded):
            self._hear_end(event)
        elif isinstance(event, TokensDecided):
            self._hear_tokens(event)
        else:
            self._hear_terminal(event)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _hear_terminal(self, event: Finished | Failed | Cancelled) -> None:
        assert event.request in self.unended, f"{event} of a request that is over or never was"
        self.unended.discard(event.request)
        request = self.requests[event.request]
        what = type(event.error if isinstance(event, Failed) else event).__name__
        self._count(f"{type(request).__name__} {what}")
        following = self._asked(request)
        first = following is not None and following.waiting[:1] == [request.id]
        if following is not None:
            following.touched_s = self.clock()
            if request.id in following.waiting:
                following.waiting.remove(request.id)
        if isinstance(event, Failed):
            self._hear_failure(request, event.error, following, first)
        elif isinstance(event, Cancelled):
            assert request.id in self.cancelled and not isinstance(request, CloseSession), event
            self._leave(request, following, first)
        elif isinstance(request, AtSession):
            assert following is not None, f"{event}, but the session of {request} is not open"
            assert first, f"{event} before those that were submitted before"
            following.active_s = max(following.active_s, self._submitted_s[request.id], self.clock())
            self._hear_session(request, event.value, following)
        elif isinstance(request, OpenSession):
            self._hear_open(request, event.value)
        elif isinstance(request, Generate):
            text = greedy(request.prompt, request.max_tokens, END_ID)
            assert self._text.get(request.id, []) == text
            assert event.value == ("length" if len(text) == request.max_tokens else "end")
        else:
            assert isinstance(request, DescribeSessions)
            self._hear_description(request, event.value)

    def _hear_open(self, request: OpenSession, value: object) -> None:
        assert value == SessionSteps(request.num_steps)
        given = INITIAL if request.initial is None else self._state_of(request.initial)
        self._add(request.session, [History(given, request.num_steps)], request.idle_timeout_s)

    def _add(self, session: SessionId, histories: Iterable[History], idle_timeout_s: float | None) -> None:
        assert len(self.open) < self.limits.max_sessions
        outside = max(0, len(self.open) + 1 - self.limits.session_slots)
        assert outside * self.state_bytes <= self.limits.max_host_bytes
        now = self.clock()
        self.open[session] = Following(frozenset(histories), idle_timeout_s, now, now)
        # Asked before it was told to be open, as may be done at once after the request to open it.
        for number in sorted(self.unended):
            request = self.requests[number]
            asked = request.source if isinstance(request, ForkSession) else getattr(request, "session", None)
            if isinstance(request, AtSession) and asked == session:
                self.open[session].waiting.append(number)

    def _hear_session(self, request: AtSession, value: object, following: Following) -> None:
        possible = following.histories
        if isinstance(request, StepSession):
            assert isinstance(value, StepOutputs)
            kept = [after for before in possible if (after := self._stepped(request, value, before)) is not None]
            self.answered.append((request, value))
            self._count("StepSession replayed" if value.replayed else "StepSession stepped")
        elif isinstance(request, ExportSession):
            assert isinstance(value, SessionState)
            state = self._state_of(value.tensors)
            kept = [h for h in possible if (h.state, h.num_steps) == (state, value.num_steps)]
            self.exported.append((state, value.num_steps))
        else:
            assert isinstance(value, SessionSteps)
            kept = [h for h in possible if not isinstance(request, RewindSession)]
            if isinstance(request, RewindSession):
                kept = [after for h in possible if (after := h.rewind(request.mark)) is not None]
            kept = [h for h in kept if h.num_steps == value.num_steps]
            if isinstance(request, MarkSession):
                assert all(len(h.mark(request.mark).marks) <= self.limits.max_marks for h in kept)
                kept = [h.mark(request.mark) for h in kept]
            if isinstance(request, ForkSession):
                self._add(request.session, [h.fork() for h in kept], request.idle_timeout_s)
        assert kept, f"{value} answers {request}, but the session may be at {list(possible)[:3]}"
        following.histories = frozenset(kept)
        if isinstance(request, CloseSession):
            del self.open[request.session]

    def _stepped(self, request: StepSession, outputs: StepOutputs, before: History) -> History | None:
        got = as_answer(outputs)
        if request.first_step not in (None, before.num_steps):
            assert request.first_step is not None
            return (
                before
                if outputs.replayed and before.find_answer(request.first_step, request.num_steps) == got
                else None
            )
        tokens = [int(token) for token in request.inputs["tokens"]]  # type: ignore[arg-type]
        after, answer = before.step(tokens, request.num_top, self.limits.kept_answers)
        return after if not outputs.replayed and answer == got else None

    # -------------------------------------------------------------------------------------------------- what went wrong

    def _hear_failure(self, request: AnyRequest, error: ServiceError, following: Following | None, first: bool) -> None:
        holds = False
        possible: frozenset[History] = following.histories if following is not None else frozenset()
        match error:
            case SessionClosed():
                holds = following is not None and any(
                    isinstance(self.requests[number], CloseSession) for number in following.waiting
                )
            case SessionNotFound():
                holds = isinstance(request, AtSession) and following is None
            case StepMismatch():
                assert isinstance(request, StepSession)
                index, count = request.first_step, request.num_steps
                kept = [h for h in possible if index != h.num_steps and index is not None]
                kept = [
                    h for h in kept if h.find_answer(index or 0, count) is None and error.expected == str(h.num_steps)
                ]
                self._narrow(following, kept)
                holds = first and bool(kept)
            case MarkNotFound():
                assert isinstance(request, RewindSession)
                kept = [h for h in possible if h.rewind(request.mark) is None]
                self._narrow(following, kept)
                holds = first and bool(kept)
            case DeadlineExceeded():
                deadline_s = getattr(request, "deadline_s", None)
                # What would not be ready in time, as long as runs take, is not run.
                holds = deadline_s is not None and self.clock() + self.longest_run_s >= deadline_s
                self._leave(request, following, first)
            case Overloaded():
                holds = self._full(request, possible)
            case InvalidInput():
                holds = isinstance(request, StepSession) and (request.num_top > TOP_K or "tokens" not in request.inputs)
            case ShuttingDown():
                holds = self.shutting_down
            case InternalFailure():
                holds = request.id in self._broken or request.id in self.may_break
        assert holds, f"{request} failed with {error!r}"

    def _full(self, request: AnyRequest, possible: frozenset[History]) -> bool:
        if isinstance(request, OpenSession | ForkSession) and len(self.open) >= self.limits.max_sessions:
            return True
        if isinstance(request, MarkSession) and any(len(h.marks) >= self.limits.max_marks for h in possible):
            return True
        marks = sum(max(len(h.marks) for h in following.histories) for following in self.open.values())
        most_bytes = (len(self.open) + marks + 1) * self.state_bytes
        may_grow = isinstance(request, OpenSession | ForkSession | MarkSession | RewindSession)
        return may_grow and most_bytes > self.limits.max_host_bytes

    def _leave(self, request: AnyRequest, following: Following | None, first: bool) -> None:
        """A request was ended early: if it was the first, after any number of its steps."""
        if isinstance(request, StepSession) and following is not None and first:
            tokens = [int(token) for token in request.inputs["tokens"]]  # type: ignore[arg-type]
            histories = [
                left
                for h in following.histories
                for left in (h.leave(tokens[:-1]) if request.first_step in (None, h.num_steps) else [h])
            ]
            following.histories = frozenset(histories)

    @staticmethod
    def _narrow(following: Following | None, kept: Sequence[History]) -> None:
        if following is not None and kept:
            following.histories = frozenset(kept)

    def _hear_end(self, event: SessionEnded) -> None:
        following = self.open.pop(event.session, None)
        assert following is not None, f"{event} of a session that is not open"
        self._count("expired" if event.expired else "broken")
        assert event.num_steps in {h.num_steps for h in following.histories} or not event.expired
        if event.expired:
            assert following.idle_timeout_s is not None
            if self.exact_time:
                assert not following.waiting, f"{event}, but {following.waiting} wait"
                assert self.clock() >= following.active_s + following.idle_timeout_s, event
        else:
            assert self.shutting_down or event.session in self.may_break, event
            self._broken.update(following.waiting)

    def _hear_tokens(self, event: TokensDecided) -> None:
        request = self.requests[event.request]
        assert isinstance(request, Generate) and event.request in self.unended
        text = self._text.setdefault(event.request, [])
        text.extend(event.tokens)
        assert text == greedy(request.prompt, len(text), END_ID)

    def _hear_description(self, request: DescribeSessions, value: object) -> None:
        assert isinstance(value, tuple)
        assert [described.session for described in value] == [s for s in request.sessions if s in self.open]
        for described in value:
            following = self.open[described.session]
            told = (described.num_steps, tuple(sorted(described.marks)))
            if not following.waiting:
                known = {(h.num_steps, tuple(sorted(mark for mark, _, _ in h.marks))) for h in following.histories}
                assert told in known, (described, known)
            assert 0.0 <= described.idle_s <= described.age_s

    # ------------------------------------------------------------------------------------------------------------ quiet

    def check_quiet(self) -> None:
        """Nothing is left to do: everything has ended, and nobody is open who was idle for too long."""
        with self.changed:
            self.check()
            assert not self.unended, f"never ended: {[self.requests[number] for number in sorted(self.unended)]}"
            for session, following in self.open.items():
                timeout = following.idle_timeout_s
                if timeout is not None and self.exact_time:
                    since_s = max(following.active_s, following.touched_s)
                    assert self.clock() < since_s + timeout, f"session {session} did not expire"

    @staticmethod
    def _state_of(tensors: object) -> State:
        assert isinstance(tensors, dict)
        assert {name: (array.shape, str(array.dtype)) for name, array in tensors.items()} == {
            "digest": ((1,), "int64"),
            "trail": ((2, 2), "float32"),
        }
        first, second, third, fourth = np.asarray(tensors["trail"]).reshape(-1).tolist()
        return State(int(tensors["digest"][0]), (int(first), int(second), int(third), int(fourth)))
