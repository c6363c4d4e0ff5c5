"""Several runners side by side, and who goes first."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.manifest import GraphKind
from service.engine.engine import Engine
from service.engine.interface import (
    Cancelled,
    Decode,
    ExportSession,
    Finished,
    ForkSession,
    Generate,
    OpenSession,
    Priority,
    RunSequence,
    Sampling,
    SessionState,
    StepSession,
    TokensDecided,
)
from service.engine.limits import EngineLimits
from service.engine.runs import Plan
from service.engine.schedule import ScheduleLimits
from service.errors import DeadlineExceeded, InternalFailure, SessionNotFound
from service.runtime.runner import Runner
from tests.service import tiny_models as tiny
from tests.service.engine import oracle
from tests.service.engine.harness import PATIENCE_S, Harness, open_tiny, running
from tests.service.engine.scripted import Feeds, ScriptedRunner

TABLE = tiny.make_table()
GREEDY = Sampling(0.0, 0, 1.0, 0)


class ByHand:
    """An engine whose turns the test makes."""

    def __init__(
        self, runner: Runner, limits: EngineLimits, num_runners: int = 1, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.harness, self.runner = Harness(), runner
        self.engine = Engine(runner, limits, self.harness.publish, clock=clock, num_runners=num_runners)
        self.harness.engine = self.engine

    def begin(self, lane: int = 0) -> Plan:
        plan = self.engine.begin(lane)
        assert plan is not None
        return plan

    def finish(self, plan: Plan, lane: int = 0) -> None:
        self.engine.finish(lane, self.runner.run(plan.graph, plan.inputs, plan.outputs, lane))

    def run_all(self) -> list[Plan]:
        plans = []
        while (plan := self.engine.begin(0)) is not None:
            plans.append(plan)
            self.finish(plan)
        return plans

    def ended(self) -> list[int]:
        """Requests that are over, in order of their first event."""
        return [
            request for request, events in self.harness.events.items() if isinstance(events[-1], Finished | Cancelled)
        ]


def test_two_runners_are_in_runs_at_once_and_share_no_row(tmp_path: Path) -> None:
    meeting = threading.Barrier(2)
    lock, rows, clashes = threading.Lock(), dict[int, set[int]](), list[set[int]]()

    def enter(call: int, kind: GraphKind, feeds: Feeds) -> None:
        mine = set(feeds["write_slots"].tolist())
        with lock:
            clashes.extend(mine & others for others in rows.values() if mine & others)
            rows[threading.get_ident()] = mine
        if call <= 20:
            meeting.wait(PATIENCE_S)  # raises, and breaks everybody's step, if there is only one

    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)), enter)
    run = runner.run

    def run_and_leave(
        kind: GraphKind, inputs: Feeds, outputs: Sequence[str], lane: int = 0
    ) -> dict[str, npt.NDArray[Any]]:
        try:
            return run(kind, inputs, outputs, lane)
        finally:
            with lock:
                del rows[threading.get_ident()]

    runner.run = run_and_leave  # type: ignore[method-assign]
    with running(runner, num_runners=2) as engine:
        for session in range(16):
            engine.open(session)
        requests = {session: engine.step(session, [4 + session % 3] * 30) for session in range(16)}
        for session, request in requests.items():
            state, expected = 0, []
            for _ in range(30):
                state = tiny.next_hash(state, 4 + session % 3)
                expected.append(oracle.best_tokens(TABLE, state, 1))
            assert [list(best) for best in engine.outputs(request).token_ids] == expected
        for session in range(16):
            assert engine.close(session) == 30
    assert clashes == []


def test_what_one_runner_leaves_wakes_the_other(tmp_path: Path) -> None:
    """Both sleep; one message wakes one of them, which finds work of two batches: the other must come too."""
    meeting = threading.Barrier(2)
    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)))
    limits = EngineLimits(session_slots=4, max_sessions=4, batch=ScheduleLimits(max_rows=1))
    with running(runner, limits, num_runners=2) as engine:
        for session in (1, 2):
            engine.open(session)
        both_asleep(engine)

        def meet(*_: object) -> None:
            meeting.wait(PATIENCE_S)

        runner.before = meet
        inbox = engine.engine._inbox
        with inbox._lock:  # both arrive in one moment, and one thread is told
            for session in (1, 2):
                request = StepSession(engine.new_id(), session, {"tokens": [4]}, 1, 1)
                inbox._requests.append(request)
                engine._admitted.append(request.id)
            inbox._arrived.notify()
        engine.finish()
        assert not meeting.broken
        for session in (1, 2):
            engine.close(session)


def both_asleep(engine: Harness) -> None:
    inbox = engine.engine._inbox
    engine.value(engine.submit(OpenSession(engine.new_id(), 3)))
    engine.close(3)
    asleep = threading.Event()
    while inbox._num_asleep < 2:
        asleep.wait(0.001)


def test_a_request_cancelled_in_flight_keeps_its_slots_until_its_run_is_over(tmp_path: Path) -> None:
    runner = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE), num_slots=5)
    hand = ByHand(runner, EngineLimits(0, 0), num_runners=2)
    first = hand.harness.submit(Decode(hand.harness.new_id(), (4, 5), 3, 1, 0.6, 9))
    plan = hand.begin(0)
    hand.engine.cancel(first)
    second = hand.harness.submit(Decode(hand.harness.new_id(), (6,), 3, 1, 0.6, 9))
    assert hand.engine.begin(1) is None  # no slots for the second, and no end for the first
    assert hand.engine.stats().free_slots == 0 and hand.harness.events == {}
    hand.finish(plan, 0)
    assert hand.harness.events == {first: [Cancelled(first)]}
    hand.run_all()
    assert hand.harness.hypotheses(second) == oracle.decode(TABLE, Decode(second, (6,), 3, 1, 0.6, 9))
    hand.engine.close()
    hand.engine.check_integrity()


def test_what_is_asked_behind_a_step_has_a_deadline_too(tmp_path: Path) -> None:
    now = 0.0
    runner = open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE))
    hand = ByHand(runner, EngineLimits(8, 8, max_host_bytes=1000), clock=lambda: now)
    new_id, submit = hand.harness.new_id, hand.harness.submit
    submit(OpenSession(new_id(), 1))
    step = submit(StepSession(new_id(), 1, {"tokens": [4]}, 1, 0))
    plan = hand.begin()
    late = [submit(ForkSession(new_id(), 1, 2, deadline_s=5.0)), submit(ExportSession(new_id(), 1, deadline_s=5.0))]
    early = submit(ExportSession(new_id(), 1, deadline_s=50.0))
    of_the_fork = submit(StepSession(new_id(), 2, {"tokens": [4]}, 1, 0))
    assert hand.engine.begin(0) is None
    now = 6.0
    hand.finish(plan)
    hand.run_all()
    assert all(isinstance(hand.harness.error(request), DeadlineExceeded) for request in late)
    assert isinstance(hand.harness.error(of_the_fork), SessionNotFound)
    assert isinstance(hand.harness.value(early), SessionState) and hand.harness.value(step)
    hand.engine.close()
    hand.engine.check_integrity()


def test_a_text_cancelled_in_flight_says_nothing_more(tmp_path: Path) -> None:
    model = open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE))
    hand = ByHand(model, EngineLimits(2, 2), num_runners=2)
    request = hand.harness.submit(Generate(hand.harness.new_id(), (2,), GREEDY, 5))
    hand.finish(hand.begin())
    plan = hand.begin()
    said = list(hand.harness.events[request])
    assert len(said) == 1 and isinstance(said[0], TokensDecided)
    hand.engine.cancel(request)
    assert hand.engine.begin(1) is None  # the other runner takes the cancel; the request runs once, not twice
    assert hand.harness.events[request] == said
    hand.finish(plan)
    assert hand.harness.events[request] == [*said, Cancelled(request)]
    assert hand.run_all() == []
    assert hand.engine.stats().running == 0


def test_a_batch_that_fails_beside_another_fails_alone(tmp_path: Path) -> None:
    hand = ByHand(
        open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)),
        EngineLimits(2, 2, batch=ScheduleLimits(max_rows=1)),
        num_runners=2,
    )
    for session in (1, 2):
        hand.harness.submit(OpenSession(hand.harness.new_id(), session))
    steps = [hand.harness.step(session, [4]) for session in (1, 2)]
    plans = [hand.begin(lane) for lane in (0, 1)]
    assert {plan.works[0].work.request for plan in plans} == {1, 2}
    hand.engine.finish(0, RuntimeError("a kernel broke"))
    hand.finish(plans[1], 1)
    assert isinstance(hand.harness.error(steps[0]), InternalFailure)
    assert list(hand.harness.outputs(steps[1]).token_ids) == [oracle.best_tokens(TABLE, tiny.next_hash(0, 4), 1)]
    assert [ended.session for ended in hand.harness.ended] == [1]
    hand.engine.check_integrity()


@pytest.mark.parametrize("waited_s", [0.0, 1.1])
def test_priority_is_a_head_start_that_waiting_makes_up_for(tmp_path: Path, waited_s: float) -> None:
    now = 0.0
    limits = EngineLimits(0, 0, batch=ScheduleLimits(max_sequences=1))
    hand = ByHand(open_tiny(tmp_path, tiny.write_tagger(tmp_path, TABLE)), limits, clock=lambda: now)

    def submit(priority: Priority) -> int:
        inputs = {"words": np.array([4]), "characters": np.array([[4]])}
        request = RunSequence(hand.harness.new_id(), inputs, 1, ("emissions",), priority=priority)
        return hand.harness.submit(request)

    low, normal = submit(Priority.LOW), submit(Priority.NORMAL)
    plan = hand.begin()  # takes both
    hand.finish(plan)
    assert hand.ended() == [normal]
    now = waited_s
    high = submit(Priority.HIGH)
    hand.run_all()
    assert hand.ended() == ([normal, high, low] if waited_s == 0 else [normal, low, high])


def test_steps_have_the_priority_of_their_session(tmp_path: Path) -> None:
    limits = EngineLimits(3, 3, batch=ScheduleLimits(max_rows=1))
    hand = ByHand(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)), limits)
    for session, priority in ((1, Priority.LOW), (2, Priority.NORMAL), (3, Priority.HIGH)):
        hand.harness.submit(OpenSession(hand.harness.new_id(), session, priority=priority))
    for session in (1, 2, 3):
        hand.harness.step(session, [4])
    for session in (3, 2, 1):
        plan = hand.begin()
        assert [work.work.request for work in plan.works] == [session]
        hand.finish(plan)


def test_what_cannot_be_answered_in_time_is_not_run_for_nothing(tmp_path: Path) -> None:
    now = 0.0
    limits = EngineLimits(0, 0, max_queue_delay_s=1e6)
    hand = ByHand(
        open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE)), limits, num_runners=2, clock=lambda: now
    )

    def submit(deadline_s: float | None) -> int:
        request = Decode(hand.harness.new_id(), (4,), 1, 1, 0.6, 1, deadline_s=deadline_s)
        return hand.harness.submit(request)

    submit(None)
    while (plan := hand.engine.begin(0)) is not None:
        now += 10.0
        hand.finish(plan)
    late, early = submit(now + 9.0), submit(now + 11.0)
    plan = hand.begin()
    assert isinstance(hand.harness.error(late), DeadlineExceeded)
    assert [work.work.request for work in plan.works] == [early]
    now += 5.0
    assert hand.engine.begin(1) is None  # it runs: it may still be in time
    hand.finish(plan)
    assert early not in hand.harness.events


def test_one_slow_run_does_not_turn_the_hurried_away_for_ever(tmp_path: Path) -> None:
    """Nobody who can wait comes to show that runs are fast again: those in a hurry must be tried now and then."""
    now = 0.0
    hand = ByHand(
        open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE)), EngineLimits(0, 0), clock=lambda: now
    )
    hand.harness.submit(Decode(hand.harness.new_id(), (4,), 1, 1, 0.6, 1))
    while (plan := hand.engine.begin(0)) is not None:
        now += 10.0  # the machine slept
        hand.finish(plan)
    for _ in range(100):
        hand.harness.submit(Decode(hand.harness.new_id(), (4,), 1, 1, 0.6, 1, deadline_s=now + 0.5))
        if hand.run_all():
            break
        now += 1.0
    assert isinstance(list(hand.harness.events.values())[-1][-1], Finished)


def test_batching_by_request_answers_at_the_end_of_the_batch_and_lets_nobody_join(tmp_path: Path) -> None:
    table = np.full((tiny.MODULUS, tiny.VOCABULARY), -20.0, dtype=np.float32)
    table[:, 4] = -0.1  # nobody ends before the bound
    limits = EngineLimits(0, 0, batching="request")
    hand = ByHand(open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, table)), limits)

    def submit(max_tokens: int) -> int:
        return hand.harness.submit(Decode(hand.harness.new_id(), (4,), 1, 1, 0.6, max_tokens))

    short, long = submit(1), submit(4)
    shapes = []
    for turn in range(5):
        plan = hand.begin()
        if turn == 0:
            late = submit(1)
        shapes.append((plan.graph, len(plan.inputs["write_slots"])))
        assert hand.harness.events == {}
        hand.finish(plan)
    # An encode, and four steps of two rows though one of them is done after the first.
    assert shapes == [("encode", 2)] + [("step", 2)] * 4
    assert hand.ended() == [short, long]
    assert [hand.harness.decided(request) for request in (short, long)] == [[4], [4] * 4]
    assert [(plan.graph, plan.num_rows) for plan in hand.run_all()] == [("encode", 1), ("step", 1)]
    assert hand.ended() == [short, long, late]
    hand.engine.check_integrity()


def test_batching_by_request_gives_what_batching_by_step_gives(tmp_path: Path) -> None:
    limits = EngineLimits(0, 0, batching="request", batch=ScheduleLimits(max_rows=12))
    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))
    with running(model, limits, num_runners=2) as engine:
        requests = [Decode(engine.new_id(), (4 + i % 3,) * (1 + i % 7), 1 + i % 3, 1, 0.6, 1 + i) for i in range(24)]
        for request in requests:
            engine.submit(request)
        for i, request in enumerate(requests):
            if i % 5 == 0:
                engine.engine.cancel(request.id)
        for i, request in enumerate(requests):
            if i % 5 == 0:
                assert isinstance(engine.wait(request.id), Cancelled | Finished)
            else:
                assert engine.hypotheses(request.id) == oracle.decode(TABLE, request)
                assert engine.decided(request.id) == list(engine.best(request.id).tokens)


def test_the_first_text_after_a_minute_of_steps_did_not_take_a_minute(tmp_path: Path) -> None:
    now = 0.0
    limits = EngineLimits(1, 1, max_queue_delay_s=1.0)
    model = open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE))
    hand = ByHand(model, limits, clock=lambda: now)
    hand.harness.submit(OpenSession(hand.harness.new_id(), 1))
    hand.harness.step(1, [4] * 700)
    for _ in range(600):
        plan = hand.begin()
        now += 0.1
        hand.finish(plan)
    first = hand.harness.submit(Generate(hand.harness.new_id(), (2,), GREEDY, 1))
    while first not in hand.ended():
        hand.finish(hand.begin())
    for _ in range(3):  # whoever thinks that a text takes a minute refuses the second of them
        hand.harness.submit(Generate(hand.harness.new_id(), (2,), GREEDY, 1))
