"""Sessions on their way from one device to another: nothing is lost, and what is asked meanwhile is answered."""

from unittest import mock

import pytest

from service.engine.interface import (
    AnyRequest,
    Cancelled,
    CloseSession,
    EndLift,
    ForkSession,
    LandSession,
    MarkSession,
    RewindSession,
    SessionEnded,
    SessionSteps,
    StepOutputs,
    StepSession,
)
from service.errors import Overloaded, SessionNotFound
from tests.service.devices.hands import best_after, hands
from tests.service.engine.reference import STATE_BYTES


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
