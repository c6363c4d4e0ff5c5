"""Steps that were begun when they are cancelled, and what is asked after them; turns are driven by hand."""

from collections.abc import Iterator

import pytest

from service.engine.interface import (
    AnyRequest,
    CloseSession,
    ExportSession,
    ForkSession,
    OpenSession,
    RequestId,
    SessionId,
    StepSession,
)
from tests.service.engine.test_session_machine import Sessions

SESSION, FORK = 1, 2


class ByHand(Sessions):
    """One session in an engine that takes one step a run; the follower holds all that it says against the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.begin_engine(1, 2, 6, 1000, 1, 256)
        self.last_id = 10
        self.ask(OpenSession(self.new_id(), SESSION))
        self.run_until_quiet()

    def steps(self, num_steps: int, session: SessionId = SESSION) -> RequestId:
        return self.asked(StepSession(self.new_id(), session, {"tokens": [7] * num_steps}, num_steps, 1))

    def asked(self, request: AnyRequest) -> RequestId:
        self.ask(request)
        return request.id

    def take_one(self) -> None:
        self.begin_lane(0)
        self.finish_lane(0)

    def cancelled(self, request: RequestId) -> None:
        self.follower.cancel(request, self.engine.cancel)


@pytest.fixture
def engine() -> Iterator[ByHand]:
    machine = ByHand()
    yield machine
    machine.teardown()


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_step_that_others_come_after_is_taken_whole_though_the_close_is_on_its_way(
    engine: ByHand, in_flight: bool
) -> None:
    begun = engine.steps(4)
    engine.asked(ForkSession(engine.new_id(), SESSION, FORK))
    engine.asked(ExportSession(engine.new_id(), SESSION))
    engine.asked(CloseSession(engine.new_id(), SESSION))
    engine.take_one()
    if in_flight:
        engine.begin_lane(0)
    engine.cancelled(begun)
    if in_flight:
        engine.finish_lane(0)
    engine.settle()
    assert engine.follower.counts["StepSession stepped"] == 1
    assert engine.follower.exported[-1][1] == engine.follower.open[FORK].history.num_steps == 4


def test_a_step_that_only_the_close_comes_after_ends_before_it_is_whole_and_does_not_count(engine: ByHand) -> None:
    begun = engine.steps(40)
    engine.asked(CloseSession(engine.new_id(), SESSION))
    engine.take_one()
    engine.take_one()
    engine.cancelled(begun)
    engine.begin_lane(0)  # the follower sees that the close tells of no step
    assert not engine.in_flight
    assert engine.follower.counts["StepSession Cancelled"] == 1
    assert engine.follower.open == {}


def test_a_begun_step_ends_as_soon_as_all_between_it_and_the_close_are_cancelled(engine: ByHand) -> None:
    """As when a stream breaks: each of its requests is cancelled, in order."""
    begun, waiting = engine.steps(40), engine.steps(40)
    engine.asked(CloseSession(engine.new_id(), SESSION))
    engine.take_one()
    for request in (begun, waiting):
        engine.cancelled(request)
    turns = 0
    while engine.follower.open:
        engine.take_one()
        turns += 1
        assert turns < 4, "what nobody waits for runs on"
    assert engine.follower.counts["StepSession Cancelled"] == 2


def test_a_fork_is_idle_from_when_it_is_there_not_from_when_it_was_asked_for(engine: ByHand) -> None:
    engine.steps(2)
    engine.asked(ForkSession(engine.new_id(), SESSION, FORK, idle_timeout_s=5.0))
    engine.take_one()
    engine.pass_time(25.0)
    engine.begin_lane(0)  # looks at who is idle: the next look is in 5 s
    engine.pass_time(4.0)
    engine.finish_lane(0)
    engine.pass_time(2.0)
    engine.settle()
    assert FORK in engine.follower.open
    engine.pass_time(4.0)
    engine.settle()
    assert FORK not in engine.follower.open
