"""Sessions of a real runner under random orders of events, each held against what it answers alone."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.engine.interface import (
    Cancelled,
    Finished,
    OpenSession,
    StepOutputs,
)
from service.engine.limits import EngineLimits
from tests.service import tiny_models as tiny
from tests.service.engine import oracle
from tests.service.engine.harness import Harness, open_tiny, running
from tests.service.engine.oracle import SessionState
from tests.service.engine.tiny_sessions import STATE_BYTES, TABLE


class Sessions(RuleBasedStateMachine):
    """Any order of open, step, cancel, wait and close, against what each session alone would answer.

    A cancelled request leaves its session after some of its steps; all that is possible is kept until an answer,
    which tells how many steps were taken in all, leaves one possibility.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.context = running(
            open_tiny(Path(self.folder.name), tiny.write_language_model(Path(self.folder.name), TABLE), num_slots=6),
            EngineLimits(session_slots=2, max_sessions=3, max_host_bytes=STATE_BYTES),
            num_runners=2,
        )
        self.possible: dict[int, set[SessionState]] = {}
        self.unanswered: dict[int, list[tuple[int, Sequence[int]]]] = {}  # by session: requests and their tokens
        self.num_sessions = 0

    @initialize()
    def begin(self) -> None:
        self.engine: Harness = self.context.__enter__()

    @rule()
    def open(self) -> None:
        self.num_sessions += 1
        request = self.engine.submit(OpenSession(self.engine.new_id(), self.num_sessions))
        end = self.engine.wait(request)
        assert isinstance(end, Finished) == (len(self.possible) < 3), end
        if isinstance(end, Finished):
            self.possible[self.num_sessions] = {SessionState()}
            self.unanswered[self.num_sessions] = []

    @precondition(lambda self: self.possible)
    @rule(data=st.data(), tokens=st.lists(st.integers(4, 6), min_size=1, max_size=6))
    def step(self, data: st.DataObject, tokens: list[int]) -> None:
        session = data.draw(st.sampled_from(sorted(self.possible)))
        self.unanswered[session].append((self.engine.step(session, tokens, num_top=2), tokens))

    @precondition(lambda self: any(self.unanswered.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        requests = sorted(request for pending in self.unanswered.values() for request, _ in pending)
        self.engine.engine.cancel(data.draw(st.sampled_from(requests)))

    @precondition(lambda self: self.possible)
    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        self.settle(data.draw(st.sampled_from(sorted(self.possible))))

    @precondition(lambda self: self.possible)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.possible)))
        num_steps = self.engine.close(session)
        self.settle(session)
        assert num_steps in {state.num_steps for state in self.possible[session]}
        del self.possible[session], self.unanswered[session]

    def settle(self, session: int) -> None:
        for request, tokens in self.unanswered[session]:
            end = self.engine.wait(request)
            paths = [(state, [state]) for state in self.possible[session]]
            for token in tokens:
                for _, path in paths:
                    path.append(path[-1].step(token))
            if isinstance(end, Cancelled):
                self.possible[session] = {state for _, path in paths for state in path}
                continue
            assert isinstance(end, Finished) and isinstance(end.value, StepOutputs)
            got = (end.value.num_steps, [list(best) for best in end.value.token_ids])
            self.possible[session] = {
                path[-1]
                for _, path in paths
                if (path[-1].num_steps, [oracle.best_tokens(TABLE, s.state, 2) for s in path[1:]]) == got
            }
            assert self.possible[session], f"no history of session {session} explains {got}"
        self.unanswered[session] = []

    @invariant()
    def count_sessions(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.engine.stats().sessions <= 3

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            for session in sorted(self.possible):
                self.close_at_the_end(session)
            self.context.__exit__(None, None, None)
        self.folder.cleanup()

    def close_at_the_end(self, session: int) -> None:
        self.engine.close(session)
        self.settle(session)


TestSessions = pytest.mark.slow(Sessions.TestCase)
TestSessions.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
