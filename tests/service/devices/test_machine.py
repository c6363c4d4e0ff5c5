"""The state machine of sessions over several engines behind one door, with moves at any moment.

Whatever is moved when, every answer is that of the session alone; see `tests.service.engine.test_session_machine`.
"""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from service.devices.balance import Evenness
from service.engine.interface import Priority
from service.engine.limits import EngineLimits
from service.engine.runs import Plan
from service.engine.schedule import ScheduleLimits
from tests.service.devices.world import DevicesFollower, World, watching
from tests.service.engine.reference import CHUNKS_PAY, STATE_BYTES
from tests.service.engine.test_session_machine import Arrays, Sessions
from tests.service.engine.watched import WatchedRunner


class Runners:
    """The runners of all devices as one, by lanes of all."""

    def __init__(self, runners: list[WatchedRunner], num_lanes: int) -> None:
        self._runners, self._num_lanes = runners, num_lanes

    @property
    def faults(self) -> list[str]:
        return [fault for runner in self._runners for fault in runner.faults]

    def enter(self, kind: Any, inputs: Any, lane: int) -> None:
        device, lane = divmod(lane, self._num_lanes)
        self._runners[device].enter(kind, inputs, lane)

    def leave(self, lane: int) -> None:
        device, lane = divmod(lane, self._num_lanes)
        self._runners[device].leave(lane)

    def check(self) -> None:
        for runner in self._runners:
            runner.check()


class SessionsOnDevices(Sessions):
    """As `Sessions`; a lane is one of any device."""

    @initialize(
        num_devices=st.integers(2, 3),
        num_lanes=st.integers(1, 2),
        session_slots=st.integers(1, 3),
        max_sessions=st.integers(3, 8),
        max_in_all=st.sampled_from([5, 1000]),
        max_host_states=st.sampled_from([2, 8, 1000, 1000]),
        max_chunk=st.sampled_from([1, 4]),
        least=st.sampled_from([1, 3, 1000]),
    )
    def begin_engine(
        self,
        num_devices: int,
        num_lanes: int,
        session_slots: int,
        max_sessions: int,
        max_in_all: int,
        max_host_states: int,
        max_chunk: int,
        least: int,
    ) -> None:
        self.runners = [WatchedRunner(2 + session_slots + 2, with_chunk=max_chunk > 1) for _ in range(num_devices)]
        limits = EngineLimits(
            session_slots=session_slots,
            max_sessions=max_sessions,
            max_host_bytes=max_host_states * STATE_BYTES,
            max_marks=2,
            kept_answers=2,
            max_queue_delay_s=1e12,
            batch=ScheduleLimits(max_rows=256, max_chunk=max_chunk, min_rows=1, costs=CHUNKS_PAY),
        )
        most = min(max_in_all, num_devices * max_sessions)
        self.follower = DevicesFollower(limits, num_devices, most, lambda: self.now)
        evenness = Evenness(least, 0.0)
        self.world = World(self.runners, limits, self.follower.hear, most, evenness, lambda: self.now, num_lanes)
        self.engine = self.world  # type: ignore[assignment]
        self.runner = Runners(self.runners, num_lanes)  # type: ignore[assignment]
        self.lanes = range(num_devices * num_lanes)
        self.watching = watching(self.runners, self.world.engines)
        self.watching.__enter__()

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), count=st.integers(1, 4))
    def move(self, data: st.DataObject, count: int) -> None:
        """Some, whatever they are about; those that are not open stay where they are not."""
        for _ in range(count):
            device = data.draw(st.integers(0, len(self.runners) - 1), "device")
            self.world.door.move(self.draw_session(data), device)

    @rule(data=st.data())
    def begin_device(self, data: st.DataObject) -> None:
        """A turn of one device, and not of the others."""
        free = [lane for lane in self.lanes if lane not in self.in_flight]
        if free:
            self.begin_lane(data.draw(st.sampled_from(free), "lane"))

    def compute(self, plan: Plan) -> Arrays:
        return self.runners[self.world.device_of(plan)].compute(plan.graph, plan.inputs, plan.outputs)

    def run_all(self) -> None:
        for _ in range(1000):
            super().run_all()
            if self.world.is_quiet:
                return
        raise AssertionError("sessions are on their way for ever")


TestSessionsOnDevices = pytest.mark.timeout(600)(pytest.mark.slow(SessionsOnDevices.TestCase))
TestSessionsOnDevices.settings = settings(max_examples=100, stateful_step_count=80, deadline=None)


def test_a_door_that_is_closed_ends_everything_once() -> None:
    machine = SessionsOnDevices()
    machine.begin_engine(2, 1, 2, 6, 1000, 1000, 4, 1000)
    try:
        machine.open(4, None, Priority.NORMAL)
        machine.begin(False, True)
        machine.step_many(4, 1, 4)
        for session in machine.sessions:
            assert any(machine.world.door.move(session, device) for device in range(2))
        machine.step_many(4, 2, 3)  # these wait for the moves
        machine.generate([4, 5], 3, None)
        assert machine.follower.unended
        machine.follower.shutting_down = True
        machine.engine.close()
        machine.follower.check_quiet()
        machine.check()
        assert machine.follower.open == {}
        machine.engine.check_integrity()
        stats = machine.engine.stats()
        assert (stats.free_slots, stats.sessions, stats.running, stats.waiting) == (stats.num_slots, 0, 0, 0)
    finally:
        machine.watching.__exit__(None, None, None)
