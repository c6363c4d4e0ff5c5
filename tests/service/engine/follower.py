"""Follows what is asked of an engine and what it says, and holds every event against the reference.

Nothing is taken from the engine but its events. Each must be what its session, alone, answers at that moment.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
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
from service.errors import DeadlineExceeded
from tests.service.engine.reference import INITIAL, History, State, as_answer, greedy
from tests.service.engine.refusals import AtSession, asked_session, may_fail, tokens_of

END_ID = 3


@dataclass
class Following:
    """One open session.

    Args:
        history: Where it is.
        idle_timeout_s: As it was opened.
        active_s: Last time at which the engine dealt with a request of it.
        touched_s: Last time at which anything was asked or answered.
        waiting: Its requests without an end, in order of submission.
    """

    history: History
    idle_timeout_s: float | None
    active_s: float
    touched_s: float
    waiting: list[RequestId] = field(default_factory=list)


class Follower:
    """See the module docstring. Safe from any thread, as long as each session is asked by one at a time.

    Args:
        limits: Of the engine.
        state_bytes: Of one session.
        clock: The engine's.
        exact_time: Whether time stands still while the engine works, so that expiry can be foretold.
    """

    takes_a_place: tuple[type[AnyRequest], ...] = (ForkSession,)  # of a session, as soon as it is asked for

    def __init__(
        self, limits: EngineLimits, state_bytes: int, clock: Callable[[], float], exact_time: bool = True
    ) -> None:
        self.limits, self.state_bytes, self.clock, self.exact_time = limits, state_bytes, clock, exact_time
        self.changed = threading.Condition(threading.RLock())
        self.requests: dict[RequestId, AnyRequest] = {}
        self.unended: set[RequestId] = set()
        self.open: dict[SessionId, Following] = {}
        self.exported: list[tuple[State, int]] = []
        self.answered: list[tuple[StepSession, StepOutputs]] = []
        self.cancelled: set[RequestId] = set()
        self.may_break: set[int] = set()  # sessions and requests that were in a batch that broke
        self.longest_run_s = 0.0  # so far
        self.shutting_down = False
        self.counts: Counter[str] = Counter()  # what was seen, so that a test can tell that it tried it
        self.faults: list[Exception] = []
        self.broken: set[RequestId] = set()  # what waited at a session that broke
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
            following = self.open.get(asked_session(request) or 0)
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
        """Cancel a request, which may be over."""
        with self.changed:
            self.cancelled.add(request)
        cancel(request)

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

    def check_quiet(self) -> None:
        """Nothing is left to do: everything has ended, and nobody is open who was idle for too long."""
        with self.changed:
            self.check()
            assert not self.unended, f"never ended: {[self.requests[number] for number in sorted(self.unended)]}"
            for session, following in self.open.items():
                timeout_s = following.idle_timeout_s
                if timeout_s is not None and self.exact_time:
                    since_s = max(following.active_s, following.touched_s)
                    assert self.clock() < since_s + timeout_s, f"session {session} did not expire"

    def _hear(self, event: Event) -> None:
        if isinstance(event, SessionEnded):
            self._hear_end(event)
        elif isinstance(event, TokensDecided):
            self._hear_tokens(event)
        else:
            self._hear_terminal(event)

    def _hear_terminal(self, event: Finished | Failed | Cancelled) -> None:
        assert event.request in self.unended, f"{event} of a request that is over or never was"
        self.unended.discard(event.request)
        request = self.requests[event.request]
        what = type(event.error if isinstance(event, Failed) else event).__name__
        self.counts[f"{type(request).__name__} {what}"] += 1
        following = self.open.get(asked_session(request) or 0)
        first = following is not None and following.waiting[:1] == [request.id]
        if following is not None:
            following.touched_s = self.clock()
            if request.id in following.waiting:
                following.waiting.remove(request.id)
        if isinstance(event, Failed):
            holds = may_fail(self, request, event.error, following, first)
            assert holds, f"{request} failed with {event.error!r}"
        elif isinstance(event, Cancelled):
            assert request.id in self.cancelled and not isinstance(request, CloseSession), event
        elif isinstance(request, AtSession):
            assert following is not None, f"{event}, but the session of {request} is not open"
            assert first, f"{event} before those that were submitted before"
            following.active_s = max(following.active_s, self._submitted_s[request.id], self.clock())
            self._hear_session(request, event.value, following)
        else:
            self._hear_other(request, event.value)

    def _hear_other(self, request: AnyRequest, value: object) -> None:
        if isinstance(request, OpenSession):
            assert value == SessionSteps(request.num_steps)
            given = INITIAL if request.initial is None else _state_of(request.initial)
            self._add(request.session, History(given, request.num_steps), request.idle_timeout_s)
        elif isinstance(request, Generate):
            text = greedy(request.prompt, request.max_tokens, END_ID)
            assert self._text.get(request.id, []) == text
            assert value == ("length" if len(text) == request.max_tokens else "end")
        else:
            assert isinstance(request, DescribeSessions)
            self._hear_description(request, value)

    def _hear_session(self, request: AtSession, value: object, following: Following) -> None:
        before = following.history
        if isinstance(request, StepSession):
            assert isinstance(value, StepOutputs)
            following.history = self._stepped(request, value, before)
            self.answered.append((request, value))
            self.counts["StepSession replayed" if value.replayed else "StepSession stepped"] += 1
        elif isinstance(request, ExportSession):
            assert isinstance(value, SessionState)
            assert (_state_of(value.tensors), value.num_steps) == (before.state, before.num_steps), (request, before)
            self.exported.append((before.state, before.num_steps))
        else:
            if isinstance(request, RewindSession):
                after = before.rewind(request.mark)
                assert after is not None, f"{request}, but there are {before.marks}"
                following.history = after
            elif isinstance(request, MarkSession):
                following.history = before.mark(request.mark)
                assert len(following.history.marks) <= self.limits.max_marks
            elif isinstance(request, ForkSession):
                self._add(request.session, before.fork(), request.idle_timeout_s)
            elif isinstance(request, CloseSession):
                del self.open[request.session]
            assert value == SessionSteps(following.history.num_steps), (request, value, following.history)

    def _stepped(self, request: StepSession, outputs: StepOutputs, before: History) -> History:
        tokens = tokens_of(request)
        if request.first_step in (None, before.num_steps):
            after, expected = before.step(tokens, request.num_top, self.limits.kept_answers)
            replayed = False
        else:
            assert request.first_step is not None
            stored = before.find_answer(request.first_step, tokens)
            assert stored is not None, f"{outputs} answers {request}, but kept are {before.answers}"
            after, expected, replayed = before, stored, True
        assert (as_answer(tokens, outputs), outputs.replayed) == (expected, replayed), (request, outputs, expected)
        return after

    def _add(self, session: SessionId, history: History, idle_timeout_s: float | None) -> None:
        assert len(self.open) < self.limits.max_sessions
        outside = max(0, len(self.open) + 1 - self.limits.session_slots)
        assert outside * self.state_bytes <= self.limits.max_host_bytes
        now = self.clock()
        # It may have been asked before it was told to be open, at once after the request to open it.
        waiting = [number for number in sorted(self.unended) if asked_session(self.requests[number]) == session]
        self.open[session] = Following(history, idle_timeout_s, now, now, waiting)

    def _hear_end(self, event: SessionEnded) -> None:
        self.counts["expired" if event.expired else "broken"] += 1
        following = self.open.pop(event.session, None)
        assert following is not None, f"{event} of a session that is not open"
        assert event.num_steps == following.history.num_steps or not event.expired, (event, following.history)
        if event.expired:
            assert following.idle_timeout_s is not None
            if self.exact_time:
                assert not following.waiting, f"{event}, but {following.waiting} wait"
                assert self.clock() >= following.active_s + following.idle_timeout_s, event
        else:
            assert self.shutting_down or event.session in self.may_break, event
            self.broken.update(following.waiting)

    def _hear_tokens(self, event: TokensDecided) -> None:
        request = self.requests[event.request]
        assert isinstance(request, Generate) and event.request in self.unended
        text = self._text.setdefault(event.request, [])
        text.extend(event.tokens)
        assert text == greedy(request.prompt, len(text), END_ID)

    def _hear_description(self, request: DescribeSessions, value: object) -> None:
        assert isinstance(value, tuple)
        forks = {fork.session for fork in map(self.requests.get, self.unended) if isinstance(fork, ForkSession)}
        told = [described.session for described in value if described.session not in forks]
        assert told == [session for session in request.sessions if session in self.open]
        for described in value:
            assert 0.0 <= described.idle_s <= described.age_s
            following = self.open.get(described.session)
            if following is not None and not following.waiting:
                marks = sorted(mark for mark, _, _ in following.history.marks)
                assert (described.num_steps, sorted(described.marks)) == (following.history.num_steps, marks)


def _state_of(tensors: object) -> State:
    assert isinstance(tensors, dict)
    assert {name: (array.shape, str(array.dtype)) for name, array in tensors.items()} == {
        "digest": ((1,), "int64"),
        "trail": ((2, 2), "float32"),
    }
    first, second, third, fourth = np.asarray(tensors["trail"]).reshape(-1).tolist()
    return State(int(tensors["digest"][0]), (int(first), int(second), int(third), int(fourth)))
