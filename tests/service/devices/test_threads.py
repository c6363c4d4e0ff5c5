"""Sessions that are moved from device to device under real threads, by callers and a mover that wait for nobody."""

import random
import threading
import time
from unittest import mock

import pytest

from service.devices.balance import Evenness
from service.engine import engine as engine_module
from service.engine.limits import EngineLimits
from service.engine.schedule import ScheduleLimits
from tests.service.devices.world import DevicesFollower, World, watching
from tests.service.engine.harness import PATIENCE_S
from tests.service.engine.reference import CHUNKS_PAY, STATE_BYTES
from tests.service.engine.test_session_threads import NUM_CALLERS, NUM_REQUESTS, Caller, UnevenRunner


class Mover(threading.Thread):
    """Sends random sessions to random devices as fast as it can, until it is stopped."""

    def __init__(self, world: World, follower: DevicesFollower) -> None:
        super().__init__(daemon=True)
        self.rng, self.world, self.follower = random.Random(7), world, follower
        self.stopped = threading.Event()

    def run(self) -> None:
        num_devices = len(self.world.engines)
        while not self.stopped.is_set():
            with self.follower.changed:
                sessions = list(self.follower.open)
            for session in self.rng.sample(sessions, min(4, len(sessions))):
                self.world.door.move(session, self.rng.randrange(num_devices))
            self.stopped.wait(0.0005)  # leaves the interpreter to the others


@pytest.mark.slow
@pytest.mark.parametrize(("num_devices", "num_lanes"), [(2, 1), (3, 2)])
def test_sessions_that_move_answer_as_each_alone(num_devices: int, num_lanes: int) -> None:
    random.seed(num_devices)
    runners = [UnevenRunner(num_slots=2 + 4 + 3) for _ in range(num_devices)]
    limits = EngineLimits(
        session_slots=4,
        max_sessions=40,
        max_host_bytes=60 * STATE_BYTES,
        max_marks=2,
        kept_answers=3,
        batch=ScheduleLimits(max_chunk=4, min_rows=1, costs=CHUNKS_PAY),
    )
    most = num_devices * limits.max_sessions
    follower = DevicesFollower(limits, num_devices, most, time.monotonic, exact_time=False)
    follower.longest_run_s = 0.5  # runs take a few milliseconds, the machine's other work not counted
    world = World(runners, limits, follower.hear, most, Evenness(2, 0.0), time.monotonic, num_lanes)
    # No routine waking: a runner that is not woken for what is left over is caught.
    with watching(runners, world.engines), mock.patch.object(engine_module, "_IDLE_WAIT_S", 10 * PATIENCE_S):
        world.door.start()
        mover = Mover(world, follower)
        mover.start()
        try:
            callers = [Caller(number, world.door, follower) for number in range(NUM_CALLERS)]
            threads = [threading.Thread(target=caller.run, daemon=True) for caller in callers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
                assert not thread.is_alive()
            follower.check()
            mover.stopped.set()
            mover.join(PATIENCE_S)
            for caller in callers:
                caller.close_all()
        finally:
            mover.stopped.set()
            follower.shutting_down = True
            world.close()
        follower.check_quiet()
        for runner in runners:
            runner.check()
        world.check_integrity()
        assert not world.door.failed
        stats = world.stats()
        assert (stats.free_slots, stats.sessions, stats.host_state_bytes) == (stats.num_slots, 0, 0)
    for what in ("StepSession stepped", "StepSession replayed", "StepSession Cancelled", "ForkSession Finished"):
        assert follower.counts.get(what), f"{what} was never seen: {follower.counts}"
    assert world.door.num_moved > 50
    assert all(runner.num_runs for runner in runners)
    assert sum(runner.num_runs for runner in runners) > NUM_REQUESTS // 6
