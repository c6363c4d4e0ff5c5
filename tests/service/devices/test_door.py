"""One door to two engines whose turns are driven by hand: who gets what, and what is told."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from service.devices.balance import Evenness
from service.devices.door import Devices
from service.engine.interface import (
    AnyRequest,
    Cancelled,
    CarriedSession,
    CloseSession,
    DescribeSessions,
    EndLift,
    Event,
    ExportSession,
    Failed,
    Finished,
    ForkSession,
    Generate,
    LandSession,
    MarkSession,
    OpenSession,
    RewindSession,
    Sampling,
    SessionEnded,
    SessionSteps,
    StepOutputs,
    StepSession,
)
from service.engine.limits import EngineLimits
from service.engine.session import Session
from service.engine.sessions import Sessions
from service.errors import InternalFailure, Overloaded, ServiceError, SessionNotFound, ShuttingDown
from tests.service.devices.world import World, watching
from tests.service.engine.reference import INITIAL, STATE_BYTES
from tests.service.engine.watched import WatchedRunner

NEVER = Evenness(least=10**9)


class Hands:
    """Two devices; turns by hand."""

    def __init__(self, evenness: Evenness, max_sessions: int, limits: EngineLimits) -> None:
        self.now = 1000.0
        self.events: list[Event] = []
        self.runners = [WatchedRunner(2 + 2 + 2) for _ in range(2)]
        self.world = World(
            self.runners, limits, self.events.extend, max_sessions, evenness, lambda: self.now, num_lanes=1
        )
        self.door, self.engines = self.world.door, self.world.engines
        self.last_id = 0
        self.refused = 0

    def new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def ask(self, request: AnyRequest) -> int:
        self.door.submit(request)
        return request.id

    def open(self, idle_timeout_s: float | None = None) -> int:
        session = self.new_id()
        self.ask(OpenSession(self.new_id(), session, idle_timeout_s=idle_timeout_s))
        return session

    def step(self, session: int, *tokens: int) -> int:
        return self.ask(StepSession(self.new_id(), session, {"tokens": tokens}, len(tokens), 1))

    def close(self, session: int) -> int:
        return self.ask(CloseSession(self.new_id(), session))

    def describe(self, *sessions: int) -> int:
        return self.ask(DescribeSessions(self.new_id(), sessions))

    def generate(self) -> int:
        return self.ask(Generate(self.new_id(), (4, 5), Sampling(0.0, 0, 1.0, 0), 2))

    def turn(self, device: int) -> bool:
        """One turn of a device, with its run; whether there was one."""
        plan = self.engines[device].begin(0)
        if plan is None:
            return False
        self.engines[device].finish(0, self.runners[device].run(plan.graph, plan.inputs, plan.outputs))
        return True

    def run(self) -> None:
        while True:
            ran = [self.turn(device) for device in range(2)]
            if not any(ran) and self.world.is_quiet:
                self.world.check_integrity()
                return

    def sessions(self) -> tuple[int, int]:
        first, second = (engine.stats().sessions for engine in self.engines)
        return first, second

    def value(self, request: int) -> object:
        (event,) = [event for event in self.events if isinstance(event, Finished) and event.request == request]
        return event.value

    def error(self, request: int) -> ServiceError:
        (event,) = [event for event in self.events if isinstance(event, Failed) and event.request == request]
        return event.error

    def best(self, request: int) -> list[int]:
        outputs = self.value(request)
        assert isinstance(outputs, StepOutputs)
        return [next(iter(ids)) for ids in outputs.token_ids]

    def pinned(self) -> list[int]:
        """The sessions that there are."""
        return sorted(self.door._pins._pins)

    def fail(self, device: int) -> None:
        """A bug ends the engine of a device."""
        engine = self.engines[device]
        with engine._lock:
            engine._fail(RuntimeError("a bug"))
            engine._end()

    @contextmanager
    def refusing(self, device: int) -> Iterator[None]:
        """No session lands on a device."""
        land = Sessions.land
        sessions = self.engines[device]._roster.sessions

        def refuse(there: Sessions, session: int, carried: CarriedSession) -> Session:
            if there is sessions:
                self.refused += 1
                raise Overloaded("no room", 1.0)
            return land(there, session, carried)

        with mock.patch.object(Sessions, "land", refuse):
            yield

    def device_of(self, session: int) -> int:
        pin = self.door._pins.get(session)
        assert pin is not None
        return pin.device


@contextmanager
def hands(
    evenness: Evenness = NEVER,
    max_sessions: int = 100,
    max_waiting: int = 1024,
    max_host_bytes: int = 50 * STATE_BYTES,
) -> Iterator[Hands]:
    limits = EngineLimits(
        session_slots=2, max_sessions=50, max_host_bytes=max_host_bytes, max_waiting=max_waiting, max_queue_delay_s=1e12
    )
    made = Hands(evenness, max_sessions, limits)
    with watching(made.runners, made.engines):
        yield made
    for runner in made.runners:
        assert not runner.faults, runner.faults


def best_after(*tokens: int) -> int:
    """What a session answers to the last of its inputs."""
    state = INITIAL
    for token in tokens:
        state = state.step(token)
    return state.top(1)[0][0]


def test_one_device_needs_no_door() -> None:
    with pytest.raises(ValueError, match="expected at least 2, one a device, got 1"):
        Devices([lambda publish, stopped: pytest.fail("made")], lambda events: None, None, 9)


def test_sessions_go_where_there_are_fewest_and_stay_there() -> None:
    with hands() as world:
        sessions = [world.open() for _ in range(6)]
        world.run()
        assert world.sessions() == (3, 3)
        asked = [world.step(session, session) for session in sessions]
        world.run()
        assert [world.best(request) for request in asked] == [[best_after(session)] for session in sessions]
        for session in [session for session in sessions if world.device_of(session) == 0]:
            world.close(session)
        world.run()
        assert world.sessions() == (0, 3)
        world.open()
        world.open()
        world.run()
        assert world.sessions() == (2, 3)


def test_new_work_goes_where_there_is_least_to_do() -> None:
    with hands() as world:
        for _ in range(6):
            world.generate()
        for engine in world.engines:
            engine.begin(0)
        assert [engine.stats().running + engine.stats().waiting for engine in world.engines] == [3, 3]


def test_new_work_that_one_device_has_no_place_for_goes_to_the_other_one() -> None:
    with hands(max_waiting=2) as world:
        asked = [world.generate() for _ in range(4)]
        world.turn(0)  # two have begun there, and on the second device two wait
        asked += [world.generate(), world.generate()]  # for the last one the second device has less to do, and no place
        with pytest.raises(Overloaded, match="2 requests are waiting"):
            world.generate()
        world.run()
        assert world.door.stats().requests_refused == 1
        assert all(world.value(request) == "length" for request in asked)


def fill(world: Hands, device: int) -> int:
    """Leave a device of two slots and two states no room for one more session, with but one session; that one."""
    session = world.open()
    for mark in range(2):
        world.ask(MarkSession(world.new_id(), session, mark))
    world.run()
    assert world.device_of(session) == device
    return session


def test_a_session_that_one_device_has_no_room_for_opens_on_the_other_one() -> None:
    with hands(max_host_bytes=2 * STATE_BYTES) as world:
        full = fill(world, 0)
        sessions = [full, world.open(), world.open(), world.open()]
        world.run()
        assert [world.device_of(session) for session in sessions] == [0, 1, 0, 1]
        more = [world.open() for _ in range(2)]  # of which the first device has no slot for any
        world.run()
        assert [world.device_of(session) for session in more] == [1, 1]
        assert world.door.stats().requests_refused == 0
        stepped = [world.step(session, 4) for session in (*sessions, *more)]
        world.run()
        assert [world.best(request) for request in stepped] == [[best_after(4)]] * 6
        refused = OpenSession(world.new_id(), world.new_id())
        world.ask(refused)
        world.run()
        assert isinstance(world.error(refused.id), Overloaded)  # nobody has any
        assert world.pinned() == sorted([*sessions, *more])
        assert world.door.stats().requests_refused == 1


def test_a_session_of_which_more_was_asked_is_opened_where_that_was_sent_or_not_at_all() -> None:
    with hands(max_host_bytes=2 * STATE_BYTES) as world:
        fill(world, 0)
        opened = [world.open() for _ in range(3)]
        world.run()
        assert [world.device_of(session) for session in opened] == [1, 0, 1]
        request = OpenSession(world.new_id(), world.new_id())
        world.ask(request)
        stepped = world.step(request.session, 4)
        world.run()
        assert isinstance(world.error(request.id), Overloaded)
        assert isinstance(world.error(stepped), SessionNotFound)
        assert world.pinned() == sorted([1, *opened])


def test_a_fork_lives_with_its_source() -> None:
    with hands() as world:
        world.open()
        source = world.open()  # on the second device
        forks = [world.new_id() for _ in range(3)]
        for fork in forks:
            world.ask(ForkSession(world.new_id(), source, fork))
        asked = [world.step(fork, 9) for fork in forks]  # at once
        world.run()
        assert world.sessions() == (1, 4)
        assert [world.best(request) for request in asked] == [[best_after(9)]] * 3


def test_all_devices_together_have_so_many_sessions_and_no_more() -> None:
    with hands(max_sessions=2) as world:
        sessions = [world.open(), world.open()]
        refused = [
            world.ask(OpenSession(world.new_id(), world.new_id())),
            world.ask(ForkSession(world.new_id(), sessions[0], world.new_id())),
        ]
        for request in refused:
            assert str(world.error(request)) == "the model is at its limit: 2 sessions are open"
        world.run()
        assert world.door.stats().requests_refused == 2


def test_a_place_is_free_once_a_session_has_ended_or_has_not_begun() -> None:
    with hands(max_sessions=2) as world:
        world.open(idle_timeout_s=5.0)
        world.close(world.open())
        world.run()
        world.now += 6.0
        world.run()
        assert world.events[-1] == SessionEnded(1, True, 0)
        never = OpenSession(world.new_id(), world.new_id(), {"no such state": INITIAL.tensors()["digest"]})
        world.ask(never)
        world.run()
        assert "no such state" in str(world.error(never.id))
        source = world.open()
        world.ask(ForkSession(world.new_id(), source, world.new_id(), deadline_s=world.now - 1.0))
        world.close(source)
        world.run()
        assert len(world.door._pins) == len(world.door._unanswered) == 0
        assert world.sessions() == (0, 0)


@pytest.mark.parametrize("kind", [CloseSession, ExportSession])
def test_what_is_asked_of_no_session_is_told_so(kind: Callable[[int, int], AnyRequest]) -> None:
    with hands() as world:
        asked = [
            world.ask(kind(world.new_id(), 77)),
            world.ask(ForkSession(world.new_id(), 77, 78)),
            world.step(78, 4),
        ]
        world.run()
        assert all(isinstance(world.error(request), SessionNotFound) for request in asked)
        assert len(world.door._pins) == 0


def test_sessions_of_all_devices_are_described_in_the_order_in_which_they_are_named() -> None:
    with hands() as world:
        sessions = [world.open() for _ in range(5)]
        world.step(sessions[3], 4, 5)
        world.run()
        asked = [sessions[4], sessions[3], 77, sessions[0], sessions[4]]
        request, of_one, of_none = world.describe(*asked), world.describe(sessions[1]), world.describe(77)
        assert not world.door.has_begun(request)
        world.turn(0)
        assert not any(isinstance(event, Finished) and event.request == request for event in world.events)
        world.run()
        told = world.value(request)
        assert isinstance(told, tuple)
        assert [one.session for one in told] == [session for session in asked if session != 77]
        assert [one.num_steps for one in told] == [0, 2, 0, 0]
        assert [one.session for one in world.value(of_one)] == [sessions[1]]  # type: ignore[attr-defined]
        assert world.value(of_none) == ()
        assert world.door.has_begun(request)


def test_numbers_are_those_of_all_devices_together() -> None:
    with hands() as world:
        for _ in range(5):  # of two devices that have two slots each for sessions
            world.step(world.open(), 4)
        world.run()
        stats = world.door.stats()
        assert (stats.num_slots, stats.free_slots, stats.sessions) == (8, 4, 5)
        assert stats.max_host_state_bytes == 100 * STATE_BYTES
        runs = world.door.run_stats()
        assert [(run.graph, run.rows, run.num_runs) for run in runs.runs] == [("step", 1, 1), ("step", 2, 2)]
        assert runs.num_waits == 5


def test_a_session_that_moves_takes_everything_along() -> None:
    with hands() as world:
        session = world.open(idle_timeout_s=50.0)
        world.run()
        world.now += 10.0
        world.step(session, 4)
        world.ask(MarkSession(world.new_id(), session, 7))
        again = StepSession(world.new_id(), session, {"tokens": (5,)}, 1, 1)
        world.ask(again)
        world.run()
        world.now += 30.0
        assert world.door.move(session, 1)
        assert not world.door.move(session, 0) and not world.door.move(session, 1)  # it is on its way
        assert not world.door.move(77, 0)
        world.run()
        assert (world.sessions(), world.device_of(session), world.door.num_moved) == ((0, 1), 1, 1)
        described = world.describe(session)
        world.run()
        (told,) = world.value(described)  # type: ignore[misc]
        assert (told.age_s, told.idle_s, told.num_steps, told.marks) == (40.0, 30.0, 2, (7,))  # type: ignore[has-type]
        resent = world.ask(again._replace(id=world.new_id(), first_step=1))
        rewound = world.ask(RewindSession(world.new_id(), session, 7))
        stepped = world.step(session, 6)
        world.run()
        first, second = world.value(again.id), world.value(resent)
        assert isinstance(first, StepOutputs) and isinstance(second, StepOutputs)
        assert (second.replayed, list(map(list, second.token_ids))) == (True, list(map(list, first.token_ids)))
        assert world.value(rewound) == SessionSteps(1)
        assert world.best(stepped) == [best_after(4, 6)]
        world.now += 49.0
        world.run()
        assert world.sessions() == (0, 1)
        world.now += 1.0
        world.run()
        assert world.events[-1] == SessionEnded(session, True, 2)


def test_a_session_that_has_never_stepped_begins_elsewhere_as_it_would_have() -> None:
    with hands() as world:
        session = world.open()
        assert world.door.move(session, 1)  # before it is open
        stepped = world.step(session, 4)
        world.run()
        assert (world.sessions(), world.best(stepped)) == ((0, 1), [best_after(4)])


def test_what_is_asked_on_the_way_waits_in_order_and_goes_where_the_session_is() -> None:
    with hands() as world:
        session = world.open()
        before = world.step(session, 4)
        world.door.move(session, 1)
        asked = [world.step(session, token) for token in (5, 6)]
        assert not any(world.door.has_begun(request) for request in (before, *asked))
        assert not world.turn(1)
        world.turn(0)
        assert world.best(before) == [best_after(4)]
        world.run()
        assert [world.best(request) for request in asked] == [[best_after(4, 5)], [best_after(4, 5, 6)]]
        assert world.runners[1].num_runs and world.sessions() == (0, 1)
        assert all(world.door.has_begun(request) for request in asked)


def test_what_waited_is_asked_before_the_session_may_expire_there() -> None:
    with hands() as world:
        session = world.open(idle_timeout_s=1.0)
        world.run()
        submitted: list[AnyRequest] = []
        submit = world.engines[1].submit

        def spy(request: AnyRequest) -> None:
            submitted.append(request)
            submit(request)

        with mock.patch.object(world.engines[1], "submit", spy):
            world.door.move(session, 1)
            world.step(session, 4)
            world.run()
        assert [type(request) for request in submitted] == [LandSession, StepSession, EndLift]


def test_what_is_cancelled_on_the_way_is_never_asked_but_for_a_close() -> None:
    with hands() as world:
        session = world.open()
        world.run()
        world.door.move(session, 1)
        asked = [world.step(session, token) for token in (4, 5)]
        closed, fork = world.new_id(), world.new_id()
        forked = world.ask(ForkSession(world.new_id(), session, fork))
        stepped = world.step(fork, 6)
        world.ask(CloseSession(closed, session))
        for request in (asked[0], forked, closed, 999):
            world.door.cancel(request)
        assert [event for event in world.events if isinstance(event, Cancelled)] == [
            Cancelled(asked[0]),
            Cancelled(forked),
        ]
        world.run()
        assert world.best(asked[1]) == [best_after(5)]
        assert isinstance(world.error(stepped), SessionNotFound)
        assert world.value(closed) == SessionSteps(1)
        assert len(world.door._pins) == len(world.door._unanswered) == 0


def test_a_session_that_is_forked_on_the_way_takes_the_fork_along() -> None:
    with hands() as world:
        session = world.open()
        world.step(session, 4)
        world.run()
        world.door.move(session, 1)
        fork = world.new_id()
        world.ask(ForkSession(world.new_id(), session, fork))
        assert not world.door.move(fork, 0)
        stepped = world.step(fork, 5)
        world.run()
        assert (world.sessions(), world.best(stepped)) == ((0, 2), [best_after(4, 5)])
        stepped = world.step(fork, 6)
        world.run()
        assert world.best(stepped) == [best_after(4, 5, 6)]
        assert world.door.move(fork, 0)
        world.run()
        assert world.sessions() == (1, 1)


def test_a_session_for_which_there_is_no_room_stays_where_it_was_and_loses_nothing() -> None:
    with hands(max_sessions=6, max_host_bytes=2 * STATE_BYTES) as world:
        sessions = [world.open() for _ in range(6)]
        for session in sessions:
            world.step(session, 4)
        world.run()
        for mark in range(2):  # all the host memory of the second device
            world.ask(MarkSession(world.new_id(), next(s for s in sessions if world.device_of(s) == 1), mark))
        world.run()
        session = next(s for s in sessions if world.device_of(s) == 0)
        world.door.move(session, 1)
        asked = world.step(session, 5)
        world.run()
        assert (world.device_of(session), world.best(asked)) == (0, [best_after(4, 5)])
        assert world.sessions() == (3, 3)
        world.close(session)
        world.run()
        assert world.sessions() == (2, 3)


def test_marks_need_room_too() -> None:
    with hands(max_host_bytes=2 * STATE_BYTES) as world:
        session, other = world.open(), world.open()
        for marked, count in ((session, 2), (other, 1)):
            for mark in range(count):
                world.ask(MarkSession(world.new_id(), marked, mark))
        world.run()
        world.door.move(session, 1)
        world.run()
        assert (world.device_of(session), world.device_of(other)) == (0, 1)
        stats = world.engines[1].stats()
        assert stats.host_state_bytes <= stats.max_host_state_bytes
        world.close(other)
        world.run()
        world.door.move(session, 1)
        rewound = world.ask(RewindSession(world.new_id(), session, 1))
        world.run()
        assert (world.device_of(session), world.value(rewound)) == (1, SessionSteps(0))


def test_sessions_that_have_no_slot_are_moved_as_they_are() -> None:
    with hands() as world:
        sessions = [world.open() for _ in range(8)]  # four slots in all
        for tokens in ((4,), (5, 6)):
            for session in sessions:
                world.step(session, *tokens)
                world.run()
        for session in sessions:
            assert world.door.move(session, 1 - world.device_of(session))
        asked = [world.step(session, 7) for session in sessions]
        world.run()
        assert [world.best(request) for request in asked] == [[best_after(4, 5, 6, 7)]] * 8
        assert world.sessions() == (4, 4)


def test_there_is_a_bound_on_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.devices.moves.MOST_WAITING", 2)
    with hands() as world:
        session = world.open()
        world.run()
        world.door.move(session, 1)
        asked = [world.step(session, token) for token in (4, 5)]
        with pytest.raises(Overloaded, match="at most 2 requests of one session"):
            world.step(session, 6)
        with pytest.raises(Overloaded):
            world.ask(ForkSession(world.new_id(), session, world.new_id()))
        world.run()
        assert [world.best(request) for request in asked] == [[best_after(4)], [best_after(4, 5)]]
        world.close(session)
        world.run()
        assert len(world.door._pins) == len(world.door._unanswered) == 0


def test_a_session_does_not_expire_on_its_way_while_somebody_asks_for_it() -> None:
    with hands() as world:
        session = world.open(idle_timeout_s=10.0)
        world.run()
        world.now += 9.0
        world.door.move(session, 1)
        asked = world.step(session, 4)
        for device in (0, 1, 0, 1):
            world.now += 20.0
            world.turn(device)
        assert world.best(asked) == [best_after(4)]
        assert not [event for event in world.events if isinstance(event, SessionEnded)]
        world.now += 10.0
        world.run()
        assert world.events[-1] == SessionEnded(session, True, 1)


def test_a_session_that_turned_back_expires_when_it_would_have() -> None:
    with hands() as world:
        session, _, beside_it = [world.open(idle_timeout_s=timeout_s) for timeout_s in (10.0, None, 16.0)]
        world.run()
        assert world.device_of(beside_it) == 0  # whose time comes between its own and the next look at it
        world.now += 9.0
        with world.refusing(1):
            world.door.move(session, 1)
            world.turn(0)
            world.now += 5.0
            world.turn(0)  # it is late now, but on its way
            assert not [event for event in world.events if isinstance(event, SessionEnded)]
            world.run()
        assert world.events[-1] == SessionEnded(session, True, 0)


@pytest.mark.parametrize("at_a_time", [1, 32])
def test_idle_sessions_are_evened_out(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.devices.spreading.AT_A_TIME", at_a_time)
    with hands(Evenness(least=3, share=0.0)) as world:
        sessions = [world.open() for _ in range(10)]
        world.run()
        stay = [session for session in sessions if world.device_of(session) == 0]
        last = next(session for session in sessions if world.device_of(session) == 1)
        asked = [world.step(session, 4) for session in stay[:3]]  # busy, and the oldest
        for session in [session for session in sessions if world.device_of(session) == 1 and session != last]:
            world.close(session)
        while world.turn(1):
            pass
        world.generate()  # where there is less to do; hearing of it is another occasion
        while world.turn(1):
            pass
        assert len(world.door._moves) == min(2, at_a_time)
        world.run()
        assert world.sessions() == (3, 3)
        if at_a_time > 1:  # before anybody was answered
            assert [world.device_of(session) for session in stay] == [0, 0, 0, 1, 1]
        assert [world.best(request) for request in asked] == [[best_after(4)]] * 3
        assert not [event for event in world.events if isinstance(event, SessionEnded)]


def test_nobody_is_moved_over_and_over_where_there_is_no_room() -> None:
    with hands(Evenness(least=1, share=0.0)) as world:
        sessions = [world.open() for _ in range(8)]
        world.run()
        with world.refusing(1):
            for session in [session for session in sessions if world.device_of(session) == 1]:
                world.close(session)
            world.run()
            assert (world.sessions(), world.refused) == ((4, 0), 2)
            world.close(world.open())
            world.run()
            assert world.refused == 2
        world.now += 1.0
        world.close(world.open())
        world.run()
        assert world.sessions() == (2, 2)


def test_a_device_that_fails_ends_its_sessions_and_is_told_once() -> None:
    with hands() as world:
        sessions = [world.open() for _ in range(4)]
        world.run()
        moving = next(session for session in sessions if world.device_of(session) == 0)
        world.door.move(moving, 1)
        waiting = world.step(moving, 4)
        world.fail(0)
        ended = [event.session for event in world.events if isinstance(event, SessionEnded)]
        assert sorted(ended) == [session for session in sessions if session not in world.pinned()]
        assert len(world.pinned()) == 2
        assert world.door.failed
        asked = [world.step(session, 4) for session in world.pinned()]
        asked_new = [world.generate(), world.step(world.open(), 4)]
        gone = world.step(sessions[0], 4)
        while world.turn(1):
            pass
        assert [world.best(request) for request in (*asked, asked_new[1])] == [[best_after(4)]] * 3
        assert world.value(asked_new[0]) == "length"
        assert isinstance(world.error(gone), SessionNotFound)
        assert isinstance(world.error(waiting), InternalFailure)
        assert world.engines[1].stats().sessions == 3
        world.fail(1)
        assert world.world.stops == 1
        assert world.pinned() == []
        with pytest.raises(InternalFailure):
            world.generate()
        with pytest.raises(InternalFailure):
            world.open()
        assert world.pinned() == []


def test_a_session_that_has_arrived_outlives_the_device_that_it_came_from() -> None:
    with hands() as world:
        session = world.open()
        world.run()
        world.door.move(session, 1)
        world.turn(0)
        with world.engines[0]._lock:
            world.engines[0]._fail(RuntimeError("a bug"))
        world.turn(1)
        with world.engines[0]._lock:  # it was not told any more that the session is gone
            world.engines[0]._end()
        asked = world.step(session, 4)
        world.turn(1)
        assert world.best(asked) == [best_after(4)]
        assert not [event for event in world.events if isinstance(event, SessionEnded)]


def test_a_door_that_is_closed_takes_nothing_and_keeps_nothing() -> None:
    with hands() as world:
        sessions = [world.open() for _ in range(4)]
        world.run()
        world.door.move(sessions[0], 1)
        waiting = [world.step(session, 4) for session in sessions]
        world.door.close()
        assert sorted(event.session for event in world.events if isinstance(event, SessionEnded)) == sessions
        assert all(isinstance(world.error(request), ShuttingDown) for request in waiting)
        assert len(world.door._pins) == len(world.door._unanswered) == len(world.door._moves) == 0
        for ask in (world.open, world.generate, lambda: world.step(sessions[0], 4), lambda: world.describe(*sessions)):
            with pytest.raises(ShuttingDown):
                ask()
        assert not world.door.failed


def test_what_waits_for_an_engine_that_never_answers_is_refused_when_the_door_closes() -> None:
    with hands() as world:
        session = world.open()
        world.run()
        world.door.move(session, 1)
        waiting = world.step(session, 4)
        with mock.patch.object(world.engines[0], "close"):  # it is in a run that does not end
            world.door.close()
        assert isinstance(world.error(waiting), ShuttingDown)
        world.engines[0].close()


def test_an_engine_that_does_not_close_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.devices.engines.CLOSE_S", 0.01)
    with hands() as world:
        session = world.open()
        world.run()
        world.door.move(session, 1)
        waiting = world.step(session, 4)
        go_on, in_time = threading.Event(), list[bool]()

        def hang() -> None:
            in_time.append(go_on.wait(10))

        with mock.patch.object(world.engines[0], "close", hang):
            world.door.close()
        assert in_time == []
        go_on.set()
        assert isinstance(world.error(waiting), ShuttingDown)
        assert "engine 0 of 2: expected it to close within 0.01 s, left behind" in caplog.text
        world.engines[0].close()
