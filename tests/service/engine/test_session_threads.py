"""The checks of `test_session_machine` with real runner threads, real time and callers that wait for nobody."""

import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import numpy.typing as npt
import pytest

from export.manifest import GraphKind
from service.engine import engine as engine_module
from service.engine.engine import Engine
from service.engine.interface import (
    AnyRequest,
    CloseSession,
    EngineDoor,
    ExportSession,
    ForkSession,
    Generate,
    MarkSession,
    OpenSession,
    RewindSession,
    Sampling,
    StepSession,
)
from service.engine.limits import EngineLimits
from service.engine.schedule import ScheduleLimits
from tests.service.engine.follower import Follower
from tests.service.engine.harness import PATIENCE_S
from tests.service.engine.reference import CHUNKS_PAY, STATE_BYTES
from tests.service.engine.watched import Arrays, WatchedRunner

NUM_CALLERS, NUM_REQUESTS = 3, 300


class UnevenRunner(WatchedRunner):
    """Runs take no time or up to a millisecond, so that lanes overtake each other."""

    def run(
        self, kind: GraphKind, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], lane: int = 0
    ) -> Arrays:
        self.enter(kind, inputs, lane)
        time.sleep(random.choice([0.0, 0.0002, 0.001]))  # the length of a run, not a wait for anything
        results = self.compute(kind, inputs, outputs)
        self.leave(lane)
        return results


class Caller:
    """Asks at random for what a caller may ask of sessions of its own.

    Args:
        number: Which of the callers.
        engine: Whom to ask.
        follower: Who checks the answers.
    """

    def __init__(self, number: int, engine: EngineDoor, follower: Follower) -> None:
        self.rng = random.Random(number)
        self.engine, self.follower = engine, follower
        self.last_id = number  # ids of callers differ by their remainder
        self.sessions: list[int] = []
        self.mine: list[int] = []  # requests

    def new_id(self) -> int:
        self.last_id += NUM_CALLERS
        return self.last_id

    def ask(self, request: AnyRequest) -> None:
        self.mine.append(request.id)
        self.follower.ask(request, self.engine.submit)

    def new_session(self) -> int:
        self.sessions = [*self.sessions, self.new_id()][-20:]
        return self.sessions[-1]

    def run(self) -> None:
        rng = self.rng
        for _ in range(NUM_REQUESTS):
            if len(self.sessions) < 6 or rng.random() < 0.05:
                self.ask(
                    OpenSession(self.new_id(), self.new_session(), idle_timeout_s=rng.choice([None, None, 0.02, 0.2]))
                )
            session = rng.choice(self.sessions)
            kind = rng.randrange(20)
            if kind < 11:
                self.step(session)
            elif kind < 13:
                self.follower.cancel(rng.choice(self.mine[-6:]), self.engine.cancel)
            elif kind == 13:
                self.ask(ForkSession(self.new_id(), session, self.new_session()))
                self.step(self.sessions[-1])  # at once
            elif kind == 14:
                self.ask(MarkSession(self.new_id(), session, rng.randrange(3)))
            elif kind == 15:
                self.ask(RewindSession(self.new_id(), session, rng.randrange(3)))
            elif kind == 16:
                self.ask(ExportSession(self.new_id(), session))
            elif kind == 17:
                self.ask(CloseSession(self.new_id(), session))
            elif kind == 18:
                prompt = tuple(rng.randrange(100) for _ in range(rng.randint(1, 6)))
                self.ask(Generate(self.new_id(), prompt, Sampling(0.0, 0, 1.0, 0), rng.randint(1, 4)))
            else:
                self.wait(self.mine[-1:])
        self.wait(self.mine)

    def step(self, session: int) -> None:
        if self.rng.random() < 0.2:
            self.resend(session)
            return
        tokens = [self.rng.randrange(1000) for _ in range(self.rng.randint(1, 6))]
        first_step = self.rng.choice([None, None, None, 0, 3])
        deadline_s = time.monotonic() + 0.002 if self.rng.random() < 0.1 else None
        inputs = {"tokens": tokens}
        self.ask(
            StepSession(self.new_id(), session, inputs, len(tokens), self.rng.randrange(4), first_step, deadline_s)
        )

    def resend(self, session: int) -> None:
        """The steps of a session that were answered last, as far as is known here."""
        with self.follower.changed:
            mine = [(old, outputs) for old, outputs in self.follower.answered[-50:] if old.session == session]
        if mine:
            old, outputs = mine[-1]
            first_step = outputs.num_steps - old.num_steps
            self.ask(StepSession(self.new_id(), session, old.inputs, old.num_steps, old.num_top, first_step))

    def wait(self, requests: Sequence[int]) -> None:
        with self.follower.changed:
            ended = self.follower.changed.wait_for(
                lambda: not self.follower.unended.intersection(requests) or self.follower.faults, PATIENCE_S
            )
        assert ended, f"never ended: {sorted(self.follower.unended.intersection(requests))}"

    def close_all(self) -> None:
        for session in sorted(self.follower.open):
            if session % NUM_CALLERS == self.last_id % NUM_CALLERS:
                self.ask(CloseSession(self.new_id(), session))
        self.wait(self.mine)


@pytest.mark.slow
@pytest.mark.parametrize("num_runners", [1, 2, 3])
def test_sessions_of_callers_that_do_not_wait_answer_as_each_alone(num_runners: int) -> None:
    random.seed(num_runners)
    runner = UnevenRunner(num_slots=2 + 4 + 3)
    limits = EngineLimits(
        session_slots=4,
        max_sessions=40,
        max_host_bytes=60 * STATE_BYTES,
        max_marks=2,
        kept_answers=3,
        batch=ScheduleLimits(max_chunk=4, min_rows=1, costs=CHUNKS_PAY),
    )
    follower = Follower(limits, STATE_BYTES, time.monotonic, exact_time=False)
    follower.longest_run_s = 0.5  # runs take a few milliseconds, the machine's other work not counted
    # No routine waking: a runner that is not woken for what is left over is caught.
    with runner.watching(), mock.patch.object(engine_module, "_IDLE_WAIT_S", 10 * PATIENCE_S):
        engine = Engine(runner, limits, follower.hear, num_runners=num_runners)
        engine.start()
        try:
            callers = [Caller(number, engine, follower) for number in range(NUM_CALLERS)]
            threads = [threading.Thread(target=caller.run, daemon=True) for caller in callers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
                assert not thread.is_alive()
            follower.check()
            for caller in callers:
                caller.close_all()
        finally:
            follower.shutting_down = True
            engine.close()
        follower.check_quiet()
        runner.check()
        engine.check_integrity()
        assert not engine.failed
        stats = engine.stats()
        assert (stats.free_slots, stats.sessions, stats.host_state_bytes) == (stats.num_slots, 0, 0)
    for what in ("StepSession stepped", "StepSession replayed", "StepSession Cancelled", "ForkSession Finished"):
        assert follower.counts.get(what), f"{what} was never seen: {follower.counts}"
    assert runner.num_runs > NUM_REQUESTS // 6  # the rest was dropped, refused or run together
