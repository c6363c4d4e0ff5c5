"""Sessions that go on with a newer version, and what is asked of them on their way."""

import asyncio
import logging

import pytest

from service.bridge import next_id
from service.engine.interface import (
    CloseSession,
    Event,
    ExportSession,
    Failed,
    ForkSession,
    MarkSession,
    OpenSession,
    SessionEnded,
    SessionSteps,
    StepOutputs,
    StepSession,
)
from service.errors import Overloaded, SessionNotFound
from service.lifecycle.handover import Handover
from service.settings import Settings
from tests.service.lifecycle.told import Told
from tests.service.rpc.fake_engine import FakeEngine
from tests.service.rpc.world import make_model, wait_until


class Pair:
    """Two versions on fake engines, whose sessions sum up what they are given, and a session of the old one."""

    def __init__(self) -> None:
        settings = Settings()
        self.old, self.old_engine = make_model("lm", "language_model", settings)
        self.new, self.new_engine = make_model("lm", "language_model", settings)
        self.handover = Handover(self.old, self.new)
        self.told = Told()
        self.session = next_id()
        self.old.bridge.watch_session(self.session, self.told)

    async def open(self, *tokens: int) -> None:
        await self.old.bridge.answers([OpenSession(next_id(), self.session)])
        if tokens:
            await self.old.bridge.answers([self.step(*tokens)])

    def step(self, *tokens: int, session: int = 0) -> StepSession:
        return StepSession(next_id(), session or self.session, {"tokens": tokens}, len(tokens), 0)

    def start(self) -> "asyncio.Task[int]":
        """Begin a round that the export of the session, which the engine holds, does not let get on."""
        self.old_engine.hold = True
        return asyncio.create_task(self.handover.round())

    async def exporting(self) -> None:
        await wait_until(lambda: any(isinstance(held, ExportSession) for held in self.old_engine.held.values()))

    def let_go(self) -> None:
        self.old_engine.hold = False
        for request in list(self.old_engine.held):
            self.old_engine.release(request)

    def total(self, engine: FakeEngine) -> tuple[int, int]:
        session = engine.sessions[self.session]
        return session.total, session.num_steps


async def test_a_session_goes_on_with_the_newer_version_where_it_was() -> None:
    pair = Pair()
    await pair.open(4, 5)
    assert await pair.handover.round() == 1
    assert pair.old_engine.sessions == {}
    assert pair.total(pair.new_engine) == (9, 2)
    assert pair.told == Told([pair.new], [])
    for bridge in (pair.new.bridge, pair.old.bridge):  # also for who still knows the old one
        (outputs,) = await bridge.answers([pair.step(1)])
        assert isinstance(outputs, StepOutputs)
    assert pair.total(pair.new_engine) == (11, 4)
    pair.new_engine.end(pair.session, expired=True)
    await wait_until(lambda: pair.told.ends)
    assert pair.told.ends == [SessionEnded(pair.session, True, 4)]
    assert await pair.handover.round() == 0


async def test_what_is_asked_on_the_way_waits_and_keeps_its_order() -> None:
    pair = Pair()
    await pair.open(4)
    pair.old_engine.hold = True
    before = asyncio.ensure_future(pair.old.bridge.answers([pair.step(10)]))
    await wait_until(lambda: pair.old_engine.held)
    moving = pair.start()
    await pair.exporting()
    after = [asyncio.ensure_future(pair.old.bridge.answers([pair.step(token)])) for token in (20, 30)]
    closed = asyncio.ensure_future(pair.old.bridge.answers([CloseSession(next_id(), pair.session)]))
    await asyncio.sleep(0)
    assert len(pair.old_engine.held) == 2
    pair.let_go()
    assert await moving == 1
    steps = [outputs.num_steps for (outputs,) in await asyncio.gather(before, *after)]  # type: ignore[attr-defined]
    assert steps == [2, 3, 4]
    assert await closed == [SessionSteps(4)]
    assert pair.old_engine.sessions == pair.new_engine.sessions == {}
    asked = [request for request in pair.new_engine.submitted if isinstance(request, StepSession)]
    assert [request.inputs["tokens"] for request in asked] == [(20,), (30,)]


async def test_a_session_that_cannot_be_opened_there_stays_and_loses_nothing() -> None:
    pair = Pair()
    await pair.open(4)
    pair.new_engine.refusals = [Overloaded("full", 1.0)]
    moving = pair.start()
    await pair.exporting()
    waiting = asyncio.ensure_future(pair.old.bridge.answers([pair.step(5)]))
    await asyncio.sleep(0)
    pair.let_go()
    assert await moving == 0
    await waiting
    assert pair.total(pair.old_engine) == (9, 2)
    assert pair.told == Told()
    assert await pair.handover.round() == 1  # there is room the next time
    assert pair.total(pair.new_engine) == (9, 2)


async def test_why_a_session_stays_is_said_once_however_often_it_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pair = Pair()
    await pair.open(4)
    for _ in range(3):
        pair.new_engine.refusals = [Overloaded("full", 1.0)]
        assert await pair.handover.round() == 0
    assert caplog.text.count("stays with version") == 1


async def test_a_session_with_marks_stays() -> None:
    pair = Pair()
    await pair.open(4)
    await pair.old.bridge.answers([MarkSession(next_id(), pair.session, 7)])
    assert await pair.handover.round() == 0
    assert await pair.handover.round() == 0
    exports = [request for request in pair.old_engine.submitted if isinstance(request, ExportSession)]
    assert len(exports) == 1
    await pair.old.bridge.answers([pair.step(5)])
    assert pair.total(pair.old_engine) == (9, 2)
    assert pair.new_engine.sessions == {}


@pytest.mark.parametrize("expired", [True, False])
async def test_a_session_that_ends_on_the_way_has_ended(expired: bool) -> None:
    pair = Pair()
    await pair.open(4)
    moving = pair.start()
    await pair.exporting()
    waiting = asyncio.ensure_future(pair.old.bridge.answers([pair.step(5)]))
    await asyncio.sleep(0)
    pair.old_engine.end(pair.session, expired=expired)
    pair.let_go()
    assert await moving == 0
    with pytest.raises(SessionNotFound):
        await waiting
    assert pair.told == Told([], [SessionEnded(pair.session, expired, 1)])
    assert pair.old_engine.sessions == pair.new_engine.sessions == {}


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_session_that_is_given_up_on_the_way_is_watched_by_nobody(is_full: bool) -> None:
    pair = Pair()
    await pair.open(4)
    pair.new_engine.refusals = [Overloaded("full", 1.0)] * is_full
    moving = pair.start()
    await pair.exporting()
    pair.old.bridge.close_session(pair.session)
    pair.let_go()
    await moving
    await wait_until(lambda: not pair.old_engine.sessions and not pair.new_engine.sessions)
    assert pair.old.bridge.watched == pair.new.bridge.watched == []
    assert pair.told == Told()


async def test_a_session_that_is_forked_on_the_way_takes_the_fork_along() -> None:
    pair = Pair()
    await pair.open(4)
    moving, fork, told = pair.start(), next_id(), Told()
    await pair.exporting()
    pair.old.bridge.watch_session(fork, told)
    forking = asyncio.ensure_future(pair.old.bridge.answers([ForkSession(next_id(), pair.session, fork)]))
    await asyncio.sleep(0)
    stepping = asyncio.ensure_future(pair.old.bridge.answers([pair.step(6, session=fork)]))
    await asyncio.sleep(0)
    pair.let_go()
    assert await moving == 1
    await forking
    await stepping
    assert pair.total(pair.new_engine) == (4, 1)
    assert (pair.new_engine.sessions[fork].total, told.models) == (10, [pair.new])
    assert pair.old_engine.sessions == {}


async def test_what_is_cancelled_while_it_waits_is_never_asked() -> None:
    pair = Pair()
    await pair.open(4)
    moving = pair.start()
    await pair.exporting()
    waiting = [asyncio.ensure_future(pair.old.bridge.answers([pair.step(token)])) for token in (10, 100)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    pair.let_go()
    assert await moving == 1
    await waiting[1]
    assert pair.total(pair.new_engine) == (104, 2)


async def test_a_request_in_flight_at_the_new_one_can_be_cancelled_by_way_of_the_old_one() -> None:
    pair = Pair()
    await pair.open(4)
    assert await pair.handover.round() == 1
    pair.new_engine.hold = True
    waiting = asyncio.ensure_future(pair.old.bridge.answers([pair.step(10)]))
    await wait_until(lambda: pair.new_engine.held)
    waiting.cancel()
    await wait_until(lambda: len(pair.new_engine.cancelled) == 1)


async def test_what_waits_has_not_begun_wherever_it_is_asked() -> None:
    pair = Pair()
    await pair.open(4)
    moving = pair.start()
    await pair.exporting()
    old, request = pair.old.bridge, pair.step(10)
    waiting = old.ask(request)
    assert not old.has_begun(request.id)
    assert old.has_begun(next_id())
    pair.new_engine.hold = True
    pair.let_go()
    await wait_until(lambda: pair.new_engine.held)
    (opening,) = pair.new_engine.held
    pair.new_engine.release(opening)
    await wait_until(lambda: request.id in pair.new_engine.held)
    assert not old.has_begun(request.id)
    pair.new_engine.release(request.id)
    await waiting
    assert old.has_begun(request.id)
    assert await moving == 1


async def test_what_is_cancelled_when_one_before_it_is_refused_is_never_asked() -> None:
    pair = Pair()
    await pair.open(4)
    moving = pair.start()
    await pair.exporting()
    old, heard, second = pair.old.bridge, list[Event](), pair.step(100)

    class Canceller:
        """Cancels what waits behind it when it fails."""

        def take(self, event: Event) -> None:
            heard.append(event)
            old.cancel(second.id)

    old.submit(pair.step(10), Canceller())
    behind = old.ask(second)
    pair.new_engine.hold = True
    pair.let_go()
    await wait_until(lambda: pair.new_engine.held)
    pair.new_engine.refusals = [Overloaded("full", 1.0)]
    pair.new_engine.hold = False
    for request in list(pair.new_engine.held):
        pair.new_engine.release(request)
    assert await moving == 1
    assert [type(event) for event in heard] == [Failed]
    assert not behind.done()
    assert pair.total(pair.new_engine) == (4, 1)


async def test_there_is_a_bound_on_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.lifecycle.handover.MOST_WAITING", 2)
    pair = Pair()
    await pair.open(4)
    moving = pair.start()
    await pair.exporting()
    waiting = [asyncio.ensure_future(pair.old.bridge.answers([pair.step(token)])) for token in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="at most 2 requests of one session"):
        await pair.old.bridge.answers([pair.step(3)])
    pair.let_go()
    assert await moving == 1
    await asyncio.gather(*waiting)
    assert pair.total(pair.new_engine) == (7, 3)


async def test_stopping_on_the_way_leaves_the_session_where_it_was() -> None:
    pair = Pair()
    await pair.open(4)
    moving = pair.start()
    await pair.exporting()
    waiting = asyncio.ensure_future(pair.old.bridge.answers([pair.step(5)]))
    await asyncio.sleep(0)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    pair.let_go()
    await waiting
    assert pair.total(pair.old_engine) == (9, 2)
    assert not pair.old.bridge.diversions
