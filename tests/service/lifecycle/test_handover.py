"""Sessions that go on with a newer version, and what is asked of them on their way."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from export.manifest import FileEntry, GraphSpec, Manifest, TensorSpec
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
from service.lifecycle.handover import Handover, may_carry
from service.models import LiveModel
from service.settings import Settings
from tests.service.lifecycle.shelf import Shelf, shelf_in
from tests.service.lifecycle.steps import close_session, open_session, read, step, step_of
from tests.service.lifecycle.test_serving import first_total, look, serving_of, states
from tests.service.rpc.fake_engine import FakeEngine
from tests.service.rpc.world import make_manifest, make_model, wait_until


@dataclass
class Told:
    """Who watches a session."""

    models: list[LiveModel]
    ends: list[SessionEnded]

    def moved(self, model: LiveModel) -> None:
        self.models.append(model)

    def ended(self, event: SessionEnded) -> None:
        self.ends.append(event)


class Pair:
    """Two versions on fake engines, whose sessions sum up what they are given, and a session of the old one."""

    def __init__(self) -> None:
        settings = Settings()
        self.old, self.old_engine = make_model("lm", "language_model", settings)
        self.new, self.new_engine = make_model("lm", "language_model", settings)
        self.handover = Handover(self.old, self.new)
        self.told = Told([], [])
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
    assert pair.told == Told([], [])
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
    assert pair.told == Told([], [])


async def test_a_session_that_is_forked_on_the_way_takes_the_fork_along() -> None:
    pair = Pair()
    await pair.open(4)
    moving, fork, told = pair.start(), next_id(), Told([], [])
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


def changed(manifest: Manifest, **fields: Any) -> Manifest:
    return manifest.model_copy(update=fields)


OLD = changed(
    make_manifest("lm", "language_model"),
    files={"x.onnx": FileEntry(sha256="0" * 64, num_bytes=1), "tokens.json": FileEntry(sha256="1" * 64, num_bytes=1)},
)
NEW = changed(OLD, version=4, carry_sessions=True)
STATE = OLD.states[0]
OTHER_STEP = GraphSpec(file="x.onnx", inputs=(TensorSpec(name="y", dtype="float32", shape=("B",)),), outputs=())


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (NEW, True),
        (changed(NEW, files={**NEW.files, "x.onnx": FileEntry(sha256="2" * 64, num_bytes=9)}), True),  # other weights
        (changed(NEW, carry_sessions=False), False),
        (changed(NEW, states=(STATE.model_copy(update={"shape": (2,)}),)), False),
        (changed(NEW, states=(STATE.model_copy(update={"dtype": "float64"}),)), False),
        (changed(NEW, states=(STATE.model_copy(update={"name": "sum"}),)), False),
        (changed(NEW, states=(STATE, STATE.model_copy(update={"name": "sum"}))), False),
        (changed(NEW, graphs={**NEW.graphs, "step": OTHER_STEP}), False),
        (changed(NEW, graphs={"sequence": OTHER_STEP}), False),
        (changed(NEW, files={**NEW.files, "tokens.json": FileEntry(sha256="2" * 64, num_bytes=1)}), False),
        (changed(NEW, task="tagger"), False),
    ],
)
def test_sessions_are_carried_where_nothing_but_the_weights_differs_and_the_manifest_allows_it(
    new: Manifest, expected: bool
) -> None:
    assert may_carry(OLD, new) is expected


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with shelf_in(tmp_path / "repository") as made:
        yield made


@pytest.mark.slow
async def test_sessions_are_carried_through_version_after_version_under_load(shelf: Shelf) -> None:
    """Every answer is exact and in order, whichever version takes the step; the old ones end by themselves."""
    shelf.put("acc", 1, carry_sessions=True)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        first = serving.models.find("acc")
        told = [Told([], []) for _ in range(8)]
        sessions = [await open_session(first) for _ in told]
        for session, one in zip(sessions, told, strict=True):
            first.bridge.watch_session(session, one)
        stop = asyncio.Event()

        async def keep_stepping(session: int, model: LiveModel, at_a_time: int) -> int:
            num_steps = 0
            while not stop.is_set():
                asked = [step_of(session, 1) for _ in range(at_a_time)]
                for outputs in await model.bridge.answers(asked):
                    num_steps += 1
                    assert read(outputs) == (1000 + num_steps, num_steps)
            return num_steps

        steppers = [asyncio.create_task(keep_stepping(session, first, 1 + i)) for i, session in enumerate(sessions)]
        for version in range(2, 8):
            shelf.put("acc", version, carry_sessions=True)
            await look(serving, shelf)
            here = serving.models.find("acc")
            await wait_until(lambda here=here: all(one.models[-1:] == [here] for one in told), 30)
            assert await first_total(here) == 1000 * version
        stop.set()
        counts = await asyncio.gather(*steppers)
        assert min(counts) > 20
        last = serving.models.find("acc")
        for session, count in zip(sessions, counts, strict=True):
            assert await step(first, session, 5) == (1000 + count + 5, count + 1)
            assert await close_session(last, session) == count + 1
        assert all(one.ends == [] for one in told)
        await wait_until(lambda: list(states(serving).values()).count("UNLOADING") == 0, 30)


async def test_sessions_stay_where_the_newer_bundle_does_not_say_that_it_takes_them(shelf: Shelf) -> None:
    shelf.put("acc", 1, carry_sessions=True)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        old, told = serving.models.find("acc"), Told([], [])
        session = await open_session(old)
        old.bridge.watch_session(session, told)
        shelf.put("acc", 2)
        await look(serving, shelf)
        assert await step(old, session, 1) == (1001, 1)
        assert (told.models, states(serving)["acc", 1]) == ([], "UNLOADING")
        shelf.put("acc", 3, carry_sessions=True)  # but the next one does
        await look(serving, shelf)
        newest = serving.models.find("acc")
        await wait_until(lambda: told.models == [newest], 30)
        assert await step(old, session, 1) == (1002, 2)
        assert await close_session(newest, session) == 2
        await wait_until(lambda: list(states(serving)) == [("acc", 1), ("acc", 2), ("acc", 3)], 30)
        await wait_until(lambda: "UNLOADING" not in states(serving).values(), 30)
