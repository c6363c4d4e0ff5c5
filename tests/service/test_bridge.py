import asyncio
import threading
from contextlib import aclosing

import pytest

from service.bridge import Bridge, next_id
from service.engine.interface import (
    CloseSession,
    Decode,
    Event,
    Finished,
    RunSequence,
    SessionEnded,
    SessionSteps,
    TokensDecided,
)
from service.errors import DeadlineExceeded, InternalFailure, Overloaded, RequestCancelled, ShuttingDown
from tests.service.rpc.fake_engine import FakeEngine, FakeSession
from tests.service.rpc.world import wait_until


class Heard:
    """Keeps what it takes."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def take(self, event: Event) -> None:
        self.events.append(event)

    def ended(self, event: SessionEnded) -> None:
        self.events.append(event)


class Tripping:
    """Breaks on whatever it takes."""

    def take(self, event: Event) -> None:
        raise RuntimeError("broken sink")

    def ended(self, event: SessionEnded) -> None:
        raise RuntimeError("broken sink")


def connected() -> tuple[Bridge, FakeEngine]:
    bridge = Bridge(FakeEngine, asyncio.get_running_loop())
    assert isinstance(bridge.engine, FakeEngine)
    return bridge, bridge.engine


def close(session: int = 1) -> CloseSession:
    return CloseSession(next_id(), session)


def decode(*source: int) -> Decode:
    return Decode(next_id(), source, 1, 1, 0.0, 9)


async def test_answers_come_in_the_order_of_the_requests_whatever_ends_first() -> None:
    bridge, engine = connected()
    engine.hold = True
    engine.sessions = {1: FakeSession(num_steps=10), 2: FakeSession(num_steps=20)}
    first, second = close(1), close(2)
    waiting = asyncio.create_task(bridge.answers([first, second]))
    await wait_until(lambda: len(engine.held) == 2)
    engine.release(second.id)
    engine.release(first.id)
    assert await waiting == [SessionSteps(10), SessionSteps(20)]
    assert bridge.unanswered == 0


async def test_one_failure_fails_the_call_and_cancels_the_rest() -> None:
    bridge, engine = connected()
    engine.hold = True
    requests = [close(), close(), close()]
    waiting = asyncio.create_task(bridge.answers(requests))
    await wait_until(lambda: len(engine.held) == 3)
    engine.fail(requests[1].id, DeadlineExceeded("late"))
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert sorted(engine.cancelled) == [requests[0].id, requests[2].id]
    await wait_until(lambda: bridge.unanswered == 0)


async def test_a_refused_request_leaves_nothing_behind_and_cancels_those_before_it() -> None:
    bridge, engine = connected()
    engine.hold = True
    first = close()
    waiting = asyncio.create_task(bridge.answers([first]))
    await wait_until(lambda: len(engine.held) == 1)
    second, third = close(), close()
    engine.refusals = [Overloaded("full", 1.0)]
    with pytest.raises(Overloaded):
        await bridge.answers([second, third])
    assert (engine.cancelled, bridge.unanswered) == ([], 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert engine.cancelled == [first.id]


async def test_events_stream_up_to_the_end_and_a_closed_stream_cancels() -> None:
    bridge, engine = connected()
    assert [type(event) async for event in bridge.events(decode(5, 6))] == [TokensDecided, TokensDecided, Finished]
    assert engine.cancelled == []
    engine.hold = True
    request = decode(7)
    async with aclosing(bridge.events(request)) as events:
        pending = asyncio.ensure_future(anext(events))
        await wait_until(lambda: engine.held)
        engine.publish([TokensDecided(request.id, (7,), (0.0,))])
        await pending
    assert engine.cancelled == [request.id]


async def test_events_raise_what_the_engine_reports() -> None:
    bridge, engine = connected()
    engine.hold = True
    for act, error in (
        (lambda request: engine.fail(request.id, InternalFailure("x")), InternalFailure),
        (lambda request: engine.cancel(request.id), RequestCancelled),
    ):
        request = decode(5)
        pending = asyncio.ensure_future(anext(bridge.events(request)))
        await wait_until(lambda: engine.held)
        act(request)  # type: ignore[no-untyped-call]
        with pytest.raises(error):
            await pending


async def test_a_turn_crosses_into_the_loop_once_whatever_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge, engine = connected()
    engine.hold = True
    heard = Heard()
    requests = [close(i) for i in range(50)]
    for request in requests:
        bridge.submit(request, heard)
    loop = asyncio.get_running_loop()
    crossings = 0
    original = loop.call_soon_threadsafe

    def counted(*args: object, **kwargs: object) -> asyncio.Handle:
        nonlocal crossings
        crossings += 1
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    events = [Finished(request.id, 0) for request in requests]
    for turn in (events[:30], events[30:]):  # the second while the first is on its way
        thread = threading.Thread(target=engine.publish, args=(turn,))
        thread.start()
        thread.join()
    await wait_until(lambda: len(heard.events) == 50)
    assert crossings == 1
    assert heard.events == events
    later = close()
    bridge.submit(later, heard)
    engine.publish([Finished(later.id, 0)])
    await wait_until(lambda: len(heard.events) == 51)
    assert crossings == 2


async def test_one_broken_sink_does_not_silence_the_others(caplog: pytest.LogCaptureFixture) -> None:
    bridge, engine = connected()
    engine.hold = True
    heard, tripping = Heard(), Tripping()
    broken, sound = close(), close()
    bridge.submit(broken, tripping)
    bridge.watch_session(1, tripping)
    bridge.submit(sound, heard)
    engine.publish([Finished(broken.id, 0), SessionEnded(1, True, 2), Finished(sound.id, 0)])
    await wait_until(lambda: heard.events)
    assert caplog.text.count("could not be delivered") == 2


async def test_who_watches_a_session_hears_of_its_end_once_and_who_stops_does_not() -> None:
    bridge, engine = connected()
    watching, stopped = Heard(), Heard()
    bridge.watch_session(1, watching)
    bridge.watch_session(2, stopped)
    bridge.unwatch_session(2)
    events = [SessionEnded(1, True, 5), SessionEnded(2, False, 6), SessionEnded(1, True, 5)]
    engine.publish(events)
    await wait_until(lambda: watching.events)
    assert (watching.events, stopped.events) == (events[:1], [])


async def test_a_session_is_closed_without_anybody_waiting() -> None:
    bridge, engine = connected()
    engine.sessions = {1: FakeSession()}
    bridge.close_session(1)
    assert not engine.sessions
    engine.refusals = [ShuttingDown("bye"), InternalFailure("a bug")]
    bridge.close_session(3)  # the engine ends all sessions by itself
    bridge.close_session(4)
    await wait_until(lambda: bridge.unanswered == 0)


async def test_events_after_the_end_of_the_loop_are_dropped() -> None:
    loop = asyncio.new_event_loop()
    bridge = Bridge(FakeEngine, loop)
    loop.close()
    assert isinstance(bridge.engine, FakeEngine)
    bridge.engine.publish([Finished(1, None)])


async def test_unknown_requests_are_logged_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    _, engine = connected()
    engine.publish([Finished(987654321, None)])
    await wait_until(lambda: "unknown request 987654321" in caplog.text)


def test_a_run_is_never_given_the_id_of_another() -> None:
    assert len({RunSequence(next_id(), {}, 1, ()).id for _ in range(100)}) == 100
