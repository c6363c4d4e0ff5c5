"""How sequences end before they are told to, and what refusals do to them."""

import asyncio

import pytest

from service.engine.interface import OpenSession
from service.errors import InternalFailure, InvalidInput, Overloaded
from tests.service.oip.inference.sequence import refused, settled, total
from tests.service.oip.world import IDLE_TIMEOUT_S, World, make_world, step


async def test_an_idle_sequence_is_ended_by_the_engine_and_must_start_again(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    await begin(step(1, [1], start=True))
    opened = engine.submitted[0]
    assert isinstance(opened, OpenSession)
    assert opened.idle_timeout_s == IDLE_TIMEOUT_S
    engine.end(opened.session, expired=True)
    await asyncio.sleep(0)
    assert world.core.num_sequences == 0
    assert "START" in (await refused(lambda: begin(step(1, [1])))).message
    assert total(await begin(step(1, [2], start=True))) == (2, 1)


async def test_a_step_that_crosses_the_end_of_its_session_is_told_to_start(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    await begin(step(1, [1], start=True))
    engine.sessions.clear()  # it has ended; word of it is still on its way
    assert "START" in (await refused(lambda: begin(step(1, [1])))).message


async def test_a_sequence_whose_run_broke_is_over(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    await begin(step(1, [1], start=True))
    engine.hold = True
    broken, behind = begin(step(1, [1])), begin(step(1, [1]))
    engine.end(engine.submitted[0].session, expired=False)  # type: ignore[union-attr]
    engine.fail(broken.work, InternalFailure("secret"))
    engine.fail(behind.work, InternalFailure("secret"))
    assert await settled(broken, behind) == ["the service failed; its log says why"] * 2
    assert "START" in (await refused(lambda: begin(step(1, [1])))).message
    assert world.core.num_sequences == 0


async def test_a_sequence_whose_run_broke_on_its_values_is_told_so_and_is_over(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    await begin(step(1, [1], start=True))
    engine.hold = True
    broken = begin(step(1, [1]))
    engine.end(engine.submitted[0].session, expired=False)  # type: ignore[union-attr]
    engine.fail(broken.work, InvalidInput("inputs", "values that the model can be run on", "some on which it fails"))
    error = await refused(lambda: broken)
    assert (error.code, error.message) == (
        "invalid_argument",
        "inputs: expected values that the model can be run on, got some on which it fails",
    )
    assert "START" in (await refused(lambda: begin(step(1, [1])))).message


async def test_a_sequence_that_cannot_be_opened_says_why_and_leaves_nothing(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    engine.refused_openings = [Overloaded("100 sessions are open", 1.0)]
    engine.hold = True
    first, second = begin(step(1, [1], start=True, id="r7")), begin(step(1, [1]))
    engine.release_all()
    texts = await settled(first, second)
    assert texts[0] == "[request id: r7] Exceeds maximum queue size: 100 sessions are open"
    assert "must specify the START flag" in str(texts[1])
    assert world.core.num_sequences == 0
    assert world.models.by_name["sums"].bridge.end_sessions() == 0  # nor is any still watched


@pytest.mark.parametrize("admitted", [0, 1])
async def test_a_start_that_is_refused_leaves_nothing(world: World, admitted: int) -> None:
    engine = world.engine
    engine.refusals = [*[None] * admitted, Overloaded("full", 1.0)]
    error = await refused(lambda: world.core.begin(step(1, [1], start=True)))
    assert (error.code, error.message) == (
        "unavailable",
        "[request id: <id_unknown>] Exceeds maximum queue size: full",
    )
    assert world.core.num_sequences == 0
    assert engine.sessions == {}


async def test_a_step_that_is_refused_leaves_the_sequence_as_it_was(world: World) -> None:
    begin = world.core.begin
    await begin(step(1, [1], start=True))
    world.engine.refusals = [Overloaded("full", 1.0)]
    assert (await refused(lambda: begin(step(1, [1], end=True)))).code == "unavailable"
    assert total(await begin(step(1, [1]))) == (2, 2)


async def test_a_step_that_is_refused_behind_others_ends_the_sequence_behind_them(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    engine.hold = True
    first, second = begin(step(1, [1], start=True)), begin(step(1, [2]))
    engine.refusals = [Overloaded("full", 1.0)]
    assert (await refused(lambda: begin(step(1, [4])))).code == "unavailable"
    assert "START" in (await refused(lambda: begin(step(1, [8])))).message  # was sent before the refusal was heard
    engine.release_all()
    assert await settled(first, second) == [(1, 1), (3, 2)]
    assert engine.sessions == {}
    assert world.core.num_sequences == 0


async def test_a_step_whose_bytes_are_too_many_ends_the_sequence_behind_others() -> None:
    world = make_world(asyncio.get_running_loop(), max_input_bytes=100)
    begin, engine = world.core.begin, world.engine
    engine.hold = True
    first = begin(step(1, [1], start=True))
    assert "Exceeds maximum queue size" in (await refused(lambda: begin(step(1, [4] * 30)))).message
    assert "START" in (await refused(lambda: begin(step(1, [8])))).message
    engine.release_all()
    assert await settled(first) == [(1, 1)]
    assert engine.sessions == {}


async def test_a_step_that_is_refused_once_it_was_taken_ends_the_sequence_where_it_was(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    engine.hold = True
    answers = [begin(step(1, [1], start=True)), *[begin(step(1, [value])) for value in (2, 4, 8)]]
    engine.fail(answers[1].work, Overloaded("1024 requests wait at it", 1.0))
    refusal, behind = "Exceeds maximum queue size: 1024", "the sequence has ended: a request of it before this one was"
    got = await settled(*answers[1:])
    assert refusal in str(got[0])
    assert all(behind in str(text) for text in got[1:])
    assert engine.cancelled == [answer.work for answer in answers[2:]]
    engine.release_all()
    assert await settled(answers[0]) == [(1, 1)]
    assert engine.sessions == {}
    assert world.core.num_sequences == 0


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_a_step_whose_states_are_refused_ends_the_sequence(world: World, start: bool, late: bool) -> None:
    begin, engine = world.core.begin, world.engine
    if not start:
        await begin(step(1, [1], start=True))
    engine.hold = True
    if not late:
        engine.refusals = [*[None] * (2 if start else 1), Overloaded("full", 1.0)]
    answer = begin(step(1, [2], start=start, outputs=["total_out"]))
    if late:
        engine.fail(answer.export, Overloaded("full", 1.0))
        await asyncio.sleep(0)
    assert "START" in (await refused(lambda: begin(step(1, [4])))).message
    engine.release_all()
    assert "Exceeds maximum queue size: full" in str(await settled(answer))
    assert engine.sessions == {}
    assert world.core.num_sequences == 0
