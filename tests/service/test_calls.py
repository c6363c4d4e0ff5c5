"""Calls in flight, without a door around them."""

import asyncio
from typing import TypeVar

import pytest

from service.calls import Calls
from service.errors import Overloaded, ShuttingDown

T = TypeVar("T")


async def hold(calls: Calls, over: asyncio.Event, seen: list[str]) -> None:
    """Be a call until `over`."""
    task = calls.enter()
    try:
        calls.admit(while_draining=False, is_health=False)
        await over.wait()
        seen.append("over")
    except asyncio.CancelledError:
        seen.append(f"cancelled, stopped: {calls.stopped}")
    finally:
        calls.leave(task)


async def ask(calls: Calls, *, while_draining: bool = False, is_health: bool = False) -> None:
    """Come in and go again."""
    task = calls.enter()
    try:
        calls.admit(while_draining=while_draining, is_health=is_health)
    finally:
        calls.leave(task)


async def started(task: "asyncio.Task[T]") -> "asyncio.Task[T]":
    await asyncio.sleep(0)  # one turn of the loop: it runs to its first wait
    return task


async def test_as_many_as_may_be_come_in_and_one_more_once_one_has_left() -> None:
    calls, over, seen = Calls(2, "requests"), asyncio.Event(), list[str]()
    held = [await started(asyncio.ensure_future(hold(calls, over, seen))) for _ in range(2)]
    assert len(calls) == 2
    with pytest.raises(Overloaded, match="expected at most 2 requests at a time, got one more") as full:
        await asyncio.create_task(ask(calls))
    assert full.value.retry_after_s == 1.0 and len(calls) == 2
    await asyncio.create_task(ask(calls, is_health=True))
    over.set()
    await asyncio.gather(*held)
    await asyncio.create_task(ask(calls))
    assert seen == ["over", "over"] and len(calls) == 0


async def test_a_drain_waits_for_calls_and_for_what_runs_through_several() -> None:
    calls, over, seen, all_over = Calls(8), asyncio.Event(), list[str](), [False]
    held = await started(asyncio.ensure_future(hold(calls, over, seen)))
    draining = await started(asyncio.ensure_future(calls.drain(60, lambda: all_over[0])))
    for is_health in (False, True):
        with pytest.raises(ShuttingDown, match="the service is shutting down and admits nothing new"):
            await asyncio.create_task(ask(calls, is_health=is_health))
    over.set()
    await held
    await asyncio.create_task(ask(calls, while_draining=True))
    assert not draining.done(), "what runs through several calls is not over"
    all_over[0] = True
    assert await draining is True and seen == ["over"]
    with pytest.raises(ShuttingDown):
        await asyncio.create_task(ask(calls, while_draining=True))


async def test_what_outlasts_the_drain_is_cancelled_and_waited_for() -> None:
    calls, seen = Calls(8), list[str]()
    held = [await started(asyncio.ensure_future(hold(calls, asyncio.Event(), seen))) for _ in range(3)]
    assert await calls.drain(0.01) is False
    assert seen == ["cancelled, stopped: True"] * 3 and len(calls) == 0
    await asyncio.gather(*held)


async def test_what_runs_through_several_calls_is_not_waited_for_longer_than_the_drain() -> None:
    calls = Calls(8)
    assert await calls.drain(0.05, lambda: False) is False and calls.stopped


async def test_a_drain_of_no_time_where_nothing_is_in_flight_ends_well() -> None:
    assert await Calls(1).drain(0.0) is True
