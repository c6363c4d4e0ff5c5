"""Sessions that lie unevenly are moved, and not in vain."""

import pytest

from service.devices.balance import Evenness
from service.engine.interface import SessionEnded
from tests.service.devices.hands import best_after, hands


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
