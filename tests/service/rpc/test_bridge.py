import asyncio
import threading
from contextlib import aclosing

import pytest

from service.engine.interface import CloseSession, Decode, Event, Finished, RunSequence, TokensDecided
from service.errors import DeadlineExceeded, InternalFailure, Overloaded, RequestCancelled, ShuttingDown
from service.rpc.bridge import Bridge, next_id
from tests.service.rpc.fake_engine import FakeEngine
from tests.service.rpc.world import wait_until


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
    engine.sessions = {1: [0, 10], 2: [0, 20]}
    first, second = close(1), close(2)
    waiting = asyncio.create_task(bridge.answers([first, second]))
    await wait_until(lambda: len(engine.held) == 2)
    engine.release(second.id)
    engine.release(first.id)
    assert await waiting == [10, 20]
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
    heard: list[Event] = []
    requests = [close(i) for i in range(50)]
    for request in requests:
        bridge.submit(request, heard.append)
    loop = asyncio.get_running_loop()
    crossings = 0
    original = loop.call_soon_threadsafe

    def counted(*args: object, **kwargs: object) -> asyncio.Handle:
        nonlocal crossings
        crossings += 1
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    events = [Finished(request.id, 0) for request in requests]
    thread = threading.Thread(target=engine.publish, args=(events,))
    thread.start()
    thread.join()
    await wait_until(lambda: len(heard) == 50)
    assert crossings == 1
    assert heard == events


async def test_one_broken_sink_does_not_silence_the_others(caplog: pytest.LogCaptureFixture) -> None:
    bridge, engine = connected()
    engine.hold = True
    heard: list[Event] = []
    broken, sound = close(), close()

    def fail(event: Event) -> None:
        raise RuntimeError("broken sink")

    bridge.submit(broken, fail)
    bridge.submit(sound, heard.append)
    engine.publish([Finished(broken.id, 0), Finished(sound.id, 0)])
    await wait_until(lambda: heard)
    assert "could not be delivered" in caplog.text


async def test_a_session_is_closed_without_anybody_waiting() -> None:
    bridge, engine = connected()
    engine.sessions = {1: [0, 0]}
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
