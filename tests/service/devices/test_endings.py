"""What becomes of sessions and requests when a device fails, or the door is closed."""

import threading
from unittest import mock

import pytest

from service.engine.interface import SessionEnded
from service.errors import InternalFailure, SessionNotFound, ShuttingDown
from tests.service.devices.hands import best_after, hands


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
