"""Cancelling requests of sequences."""

import asyncio

import pytest

from service.engine.interface import StepTensors
from service.oip.messages import InferResponse
from tests.service.oip.inference.sequence import refused, settled, total
from tests.service.oip.world import World, step


async def test_cancelling_a_request_ends_its_sequence_and_all_that_it_has_pending(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    engine.hold = True
    first, second, third = begin(step(1, [1], start=True)), begin(step(1, [2])), begin(step(1, [3]))
    other = begin(step(2, [7], start=True))
    assert second.cancel()
    assert not second.cancel()
    assert await settled(first, third) == ["the sequence was cancelled"] * 2
    assert second.cancelled()
    assert {request.id for request in engine.submitted if isinstance(request, StepTensors)} - set(engine.cancelled) == {
        other.work
    }
    assert "START" in (await refused(lambda: begin(step(1, [4])))).message
    engine.hold = False
    engine.release_all()
    assert total(await other) == (7, 1)
    assert list(engine.sessions.values()) == [(7, 1)]
    assert world.core.num_sequences == 1
    assert total(await begin(step(1, [4], start=True))) == (4, 1)


async def test_cancelling_stops_the_copy_of_the_states_too(world: World) -> None:
    world.engine.hold = True
    answer = world.core.begin(step(1, [1], start=True, outputs=["total_out"]))
    answer.cancel()
    assert world.engine.cancelled == [answer.work, answer.export]


async def test_a_task_that_waits_cancels_by_being_cancelled(world: World) -> None:
    world.engine.hold = True

    async def wait() -> InferResponse:
        return await world.core.begin(step(1, [1], start=True))

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.engine.cancelled) == 1
    assert world.core.num_sequences == 0
    world.engine.release_all()
    assert world.engine.sessions == {}


async def test_cancelling_what_is_answered_changes_nothing(world: World) -> None:
    answer = world.core.begin(step(1, [1], start=True))
    await answer
    assert not answer.cancel()
    assert total(await world.core.begin(step(1, [1]))) == (2, 2)
