"""One door to two engines whose turns are driven by hand: who gets what, and what is told."""

from collections.abc import Callable

import pytest

from service.devices.door import Devices
from service.engine.interface import (
    AnyRequest,
    CloseSession,
    ExportSession,
    Finished,
    ForkSession,
    MarkSession,
    OpenSession,
    SessionEnded,
)
from service.errors import Overloaded, SessionNotFound
from tests.service.devices.hands import Hands, best_after, hands
from tests.service.engine.reference import INITIAL, STATE_BYTES


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
