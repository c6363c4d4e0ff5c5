"""Sessions under everything that can happen to them at once, each held against what it answers alone.

The engine's turns are driven by hand, so that a failing order of events is found again and cut down by hypothesis; the
last test lets real threads loose on the same checks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from service.engine.engine import Engine
from service.engine.interface import (
    AnyRequest,
    CloseSession,
    DescribeSessions,
    ExportSession,
    ForkSession,
    Generate,
    MarkSession,
    OpenSession,
    Priority,
    RewindSession,
    Sampling,
    SessionId,
    StepSession,
)
from service.engine.limits import EngineLimits
from service.engine.runs import Plan
from service.engine.schedule import ScheduleLimits
from tests.service.engine.follower import Follower
from tests.service.engine.reference import CHUNKS_PAY, STATE_BYTES, TOP_K, State
from tests.service.engine.watched import WatchedRunner

Arrays = dict[str, npt.NDArray[Any]]


class Sessions(RuleBasedStateMachine):
    """Far more sessions than slots, one to three batches in flight, time that stands still until it is told to pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.last_id = 0
        self.sessions: list[SessionId] = []  # all that were ever asked for
        self.in_flight: dict[int, tuple[Plan, Arrays | None]] = {}  # by lane; the outputs if they were computed early

    @initialize(
        num_lanes=st.integers(1, 3),
        session_slots=st.integers(1, 4),
        max_sessions=st.integers(3, 12),
        max_host_states=st.sampled_from([2, 8, 1000, 1000]),
        max_chunk=st.sampled_from([1, 2, 4]),
        max_rows=st.sampled_from([2, 3, 256]),
    )
    def begin_engine(
        self, num_lanes: int, session_slots: int, max_sessions: int, max_host_states: int, max_chunk: int, max_rows: int
    ) -> None:
        self.runner = WatchedRunner(2 + session_slots + 2, with_chunk=max_chunk > 1)
        limits = EngineLimits(
            session_slots=session_slots,
            max_sessions=max_sessions,
            max_host_bytes=max_host_states * STATE_BYTES,
            max_marks=2,
            kept_answers=2,
            max_queue_delay_s=1e12,
            batch=ScheduleLimits(max_rows=max_rows, max_chunk=max_chunk, min_rows=1, costs=CHUNKS_PAY),
        )
        self.watching = self.runner.watching()
        self.watching.__enter__()
        self.follower = Follower(limits, STATE_BYTES, lambda: self.now)
        self.engine = Engine(self.runner, limits, self.follower.hear, clock=lambda: self.now, num_runners=num_lanes)
        self.lanes = range(num_lanes)

    # ----------------------------------------------------------------------------------------------------------- asking

    def new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def ask(self, request: AnyRequest) -> None:
        self.follower.ask(request, self.engine.submit)

    def draw_session(self, data: st.DataObject) -> SessionId:
        """Mostly an open one; else any that ever was asked for."""
        known = sorted(self.follower.open) or self.sessions
        return data.draw(st.sampled_from(known if data.draw(st.integers(0, 9)) else self.sessions), "session")

    def new_session(self) -> SessionId:
        self.sessions.append(self.new_id())  # of one count: the ids of sessions and requests are never the same
        return self.sessions[-1]

    timeouts = st.sampled_from([None, 5.0, 20.0])
    inputs = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)

    @rule(count=st.integers(1, 4), timeout=timeouts, priority=st.sampled_from(Priority))
    def open(self, count: int, timeout: float | None, priority: Priority) -> None:
        for _ in range(count):
            self.ask(OpenSession(self.new_id(), self.new_session(), idle_timeout_s=timeout, priority=priority))

    @rule(data=st.data(), digest=st.integers(0, 2**31 - 2), num_steps=st.integers(0, 99), timeout=timeouts)
    def open_with_state(self, data: st.DataObject, digest: int, num_steps: int, timeout: float | None) -> None:
        """A state that is made up, or one that was taken out of a session."""
        states = [(State(digest, (1, 2, 3, 4)), num_steps), *self.follower.exported[-3:]]
        state, num_steps = data.draw(st.sampled_from(states), "state")
        self.ask(OpenSession(self.new_id(), self.new_session(), state.tensors(), num_steps, timeout))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), tokens=inputs, num_top=st.integers(0, 3), patience_s=st.sampled_from([None, None, None, 3.0]))
    def step(self, data: st.DataObject, tokens: list[int], num_top: int, patience_s: float | None) -> None:
        deadline_s = None if patience_s is None else self.now + patience_s
        session = self.draw_session(data)
        self.ask(StepSession(self.new_id(), session, {"tokens": tokens}, len(tokens), num_top, None, deadline_s))

    @precondition(lambda self: self.follower.open)
    @rule(count=st.integers(2, 12), num_top=st.integers(0, 3), longest=st.integers(1, 5))
    def step_many(self, count: int, num_top: int, longest: int) -> None:
        """A few steps each, ragged, of more sessions than there are slots."""
        for session in sorted(self.follower.open)[:count]:
            tokens = [session] * (1 + session % longest)
            self.ask(StepSession(self.new_id(), session, {"tokens": tokens}, len(tokens), num_top))

    @precondition(lambda self: self.follower.open)
    @rule(data=st.data(), tokens=inputs, ahead=st.sampled_from([0, 0, 0, 1, -1, 5]))
    def step_from(self, data: st.DataObject, tokens: list[int], ahead: int) -> None:
        """At an index that may be the right one by the time that it is looked at."""
        session = self.draw_session(data)
        following = self.follower.open.get(session)
        taken = 0 if following is None else following.history.num_steps
        self.ask(StepSession(self.new_id(), session, {"tokens": tokens}, len(tokens), 1, max(0, taken + ahead)))

    @precondition(lambda self: self.follower.answered)
    @rule(data=st.data(), change=st.sampled_from(["none", "none", "one more", "another input"]))
    def resend(self, data: st.DataObject, change: str) -> None:
        """Steps that were answered, of late or long ago; or something else at their index."""
        old, outputs = data.draw(st.sampled_from(self.follower.answered[-6:]), "answered")
        tokens = [*old.inputs["tokens"], *[1] * (change == "one more")]
        if change == "another input":
            tokens[-1] += 1
        first_step = outputs.num_steps - old.num_steps
        self.ask(StepSession(self.new_id(), old.session, {"tokens": tokens}, len(tokens), old.num_top, first_step))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), mark=st.integers(0, 3), rewind=st.booleans())
    def mark_or_rewind(self, data: st.DataObject, mark: int, rewind: bool) -> None:
        kind = RewindSession if rewind else MarkSession
        self.ask(kind(self.new_id(), self.draw_session(data), mark))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), timeout=timeouts, num_steps=st.integers(0, 2))
    def fork(self, data: st.DataObject, timeout: float | None, num_steps: int) -> None:
        """Steps may be asked of it at once."""
        source = self.draw_session(data)
        fork = self.new_session()
        self.ask(ForkSession(self.new_id(), source, fork, timeout))
        for num_top in range(num_steps):
            self.ask(StepSession(self.new_id(), fork, {"tokens": [5, 6]}, 2, num_top))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), what=st.sampled_from(["export", "describe", "close", "bad num_top", "bad inputs"]))
    def ask_otherwise(self, data: st.DataObject, what: str) -> None:
        session = self.draw_session(data)
        requests: dict[str, AnyRequest] = {
            "export": ExportSession(self.new_id(), session),
            "close": CloseSession(self.new_id(), session),
            "describe": DescribeSessions(self.new_id(), tuple(self.sessions)),
            "bad num_top": StepSession(self.new_id(), session, {"tokens": [1]}, 1, TOP_K + 1),
            "bad inputs": StepSession(self.new_id(), session, {"words": [1]}, 1, 1),
        }
        self.ask(requests[what])

    @rule(prompt=inputs, max_tokens=st.integers(1, 4), patience_s=st.sampled_from([None, None, 3.0]))
    def generate(self, prompt: list[int], max_tokens: int, patience_s: float | None) -> None:
        """A neighbour that is no session: it takes slots of its own and gives them back."""
        deadline_s = None if patience_s is None else self.now + patience_s
        greedy = Sampling(0.0, 0, 1.0, 0)
        self.ask(Generate(self.new_id(), tuple(prompt), greedy, max_tokens, deadline_s=deadline_s))

    @precondition(lambda self: self.last_id)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Anything: what waits, what runs and what is over."""
        waiting = sorted(self.follower.unended)
        late = st.integers(1, self.last_id)
        request = data.draw(st.one_of(st.sampled_from(waiting), late) if waiting else late, "request")
        self.follower.cancel(request, self.engine.cancel)

    # ----------------------------------------------------------------------------------------------- the engine's turns

    @rule(compute_early=st.booleans(), all_lanes=st.booleans())
    def begin(self, compute_early: bool, all_lanes: bool) -> None:
        for lane in [lane for lane in self.lanes if lane not in self.in_flight][: None if all_lanes else 1]:
            self.begin_lane(lane, compute_early)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), how=st.sampled_from(["well"] * 7 + ["raises", "gives NaN"]))
    def finish(self, data: st.DataObject, how: str) -> None:
        lane = data.draw(st.sampled_from(sorted(self.in_flight)), "lane")
        plan, outputs = self.in_flight[lane]
        if how == "raises":
            self.follower.may_break |= {work.work.request for work in plan.works}
            self.finish_lane(lane, RuntimeError("a run that breaks"))
            return
        if how == "gives NaN" and "top_log_probs" in plan.outputs:
            outputs = self.compute(plan) if outputs is None else outputs
            row = data.draw(st.integers(0, plan.num_rows - 1), "row")
            outputs["top_log_probs"][row] = np.nan
            self.follower.may_break.add(plan.works[row].work.request)
            self.in_flight[lane] = (plan, outputs)
        self.finish_lane(lane)

    @rule(seconds=st.sampled_from([1.0, 4.0, 6.0, 25.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def settle(self) -> None:
        self.run_until_quiet()

    def begin_lane(self, lane: int, compute_early: bool = False) -> None:
        plan = self.engine.begin(lane)
        self.check()
        if plan is not None:
            self.runner.enter(plan.graph, plan.inputs, lane)
            self.in_flight[lane] = (plan, self.compute(plan) if compute_early else None)

    def compute(self, plan: Plan) -> Arrays:
        return self.runner.compute(plan.graph, plan.inputs, plan.outputs)

    def finish_lane(self, lane: int, error: Exception | None = None) -> None:
        plan, outputs = self.in_flight.pop(lane)
        outputs = self.compute(plan) if outputs is None else outputs
        self.runner.leave(lane)
        self.follower.longest_run_s = max(self.follower.longest_run_s, self.now - plan.began_s)
        self.engine.finish(lane, error or outputs)
        self.check()

    def check(self) -> None:
        self.follower.check()
        assert not self.runner.faults, self.runner.faults

    def run_until_quiet(self) -> None:
        self.run_all()
        self.follower.check_quiet()
        self.engine.check_integrity()
        self.runner.check()
        stats = self.engine.stats()
        assert stats.sessions == len(self.follower.open)
        assert stats.host_state_bytes <= stats.max_host_state_bytes
        assert (stats.waiting, stats.running) == (0, 0)

    def run_all(self) -> None:
        """As the runner threads would: whoever is done plans the next one."""
        turns = 0
        while True:
            for lane in self.lanes:
                if lane not in self.in_flight:
                    self.begin_lane(lane)
            if not self.in_flight:
                break
            self.finish_lane(sorted(self.in_flight)[turns % len(self.in_flight)])
            turns += 1
            assert turns < 10_000, "the engine runs for ever"

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            self.run_until_quiet()
            for session in sorted(self.follower.open):
                self.ask(CloseSession(self.new_id(), session))
            self.run_until_quiet()
            stats = self.engine.stats()
            assert (stats.free_slots, stats.sessions, stats.host_state_bytes) == (stats.num_slots, 0, 0)
        finally:
            self.watching.__exit__(None, None, None)


# Seconds of looking, and minutes of cutting down what was found, which tells more than that time ran out.
TestSessions = pytest.mark.timeout(600)(pytest.mark.slow(Sessions.TestCase))
TestSessions.settings = settings(max_examples=150, stateful_step_count=80, deadline=None)


@pytest.mark.parametrize("max_chunk", [1, 4])
def test_an_engine_that_is_closed_ends_everything_once(max_chunk: int) -> None:
    machine = Sessions()
    machine.begin_engine(2, 2, 6, 1000, max_chunk, 256)
    try:
        machine.open(4, None, Priority.NORMAL)
        machine.begin_lane(0)
        machine.step_many(4, 1, 4)
        machine.step_many(4, 2, 3)
        machine.generate([4, 5], 3, None)
        machine.begin_lane(0)
        machine.finish_lane(0)
        machine.ask(OpenSession(machine.new_id(), machine.new_session()))
        assert machine.follower.unended
        machine.follower.shutting_down = True
        machine.engine.close()
        machine.follower.check_quiet()
        machine.check()
        assert machine.follower.open == {}
        stats = machine.engine.stats()
        assert (stats.free_slots, stats.sessions, stats.running, stats.waiting) == (stats.num_slots, 0, 0, 0)
    finally:
        machine.watching.__exit__(None, None, None)
