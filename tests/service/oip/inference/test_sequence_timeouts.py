"""Requests of sequences whose time is up."""

import asyncio
import gc
import weakref

from service.bridge import Sink
from service.engine.interface import AnyRequest, CloseSession, StepTensors
from service.errors import DeadlineExceeded
from tests.service.oip.inference.sequence import refused, settled, total
from tests.service.oip.world import World, step


async def test_a_timeout_in_the_queue_ends_the_sequence_at_once(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    await begin(step(1, [1], start=True))
    engine.hold = True
    first, second = begin(step(1, [1], timeout=1)), begin(step(1, [1]))
    text = "timeout of the corresponding sequence has been expired"
    assert await settled(first, second) == [text, text]
    assert {first.work, second.work} <= set(engine.cancelled)
    engine.hold = False
    engine.release_all()
    assert engine.sessions == {}
    assert "START" in (await refused(lambda: begin(step(1, [1])))).message


async def test_what_has_begun_is_not_timed_out(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    engine.hold = True
    answer, other = begin(step(1, [1], start=True, timeout=1)), begin(step(2, [1], start=True, timeout=1))
    engine.begun.add(answer.work)
    assert await settled(other) == ["timeout of the corresponding sequence has been expired"]
    assert not answer.done()
    engine.release_all()
    assert total(await answer) == (1, 1)


async def test_what_waits_for_its_session_to_arrive_elsewhere_is_timed_out(world: World) -> None:
    begin = world.core.begin
    first = begin(step(1, [1], start=True))
    await first
    assert first.sequence is not None
    bridge, waiting = world.models.by_name["sums"].bridge, dict[int, AnyRequest]()

    class Way:
        """Keeps what is asked of a session that is on its way."""

        def submit(self, request: AnyRequest, sink: Sink) -> None:
            waiting[request.id] = request

        def cancel(self, request: int) -> None:
            waiting.pop(request, None)

        def has_begun(self, request: int) -> bool:
            return request not in waiting

    bridge.diversions[first.sequence.session] = Way()
    late = begin(step(1, [1], timeout=1))
    assert list(waiting) == [late.work]
    assert await settled(late) == ["timeout of the corresponding sequence has been expired"]
    assert [type(request) for request in waiting.values()] == [CloseSession]


async def test_what_is_answered_in_time_has_no_timeout_any_more(world: World) -> None:
    begin = world.core.begin
    await begin(step(1, [1], start=True, timeout=1))
    world.engine.hold = True
    later = begin(step(2, [1], start=True, timeout=1_000))
    assert await settled(later) == ["timeout of the corresponding sequence has been expired"]
    world.engine.hold = False
    assert total(await begin(step(1, [1]))) == (2, 2)


async def test_an_answer_is_let_go_of_though_its_timeout_is_far(world: World) -> None:
    answer = world.core.begin(step(1, [1], start=True, end=True, timeout=3_600_000_000))
    await answer
    seen = weakref.ref(answer)
    del answer
    await asyncio.sleep(0)  # the loop lets go of what it has just called
    gc.collect()
    assert seen() is None


async def test_the_callers_own_deadline_is_told_as_such_and_ends_the_sequence(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    engine.hold = True
    answer, behind = begin(step(1, [1], start=True, deadline_s=1.5)), begin(step(1, [1]))
    request = engine.held[answer.work]
    assert isinstance(request, StepTensors)
    assert request.deadline_s == 1.5
    engine.fail(answer.work, DeadlineExceeded("late"))
    assert (await refused(lambda: answer)).code == "deadline_exceeded"
    assert await settled(behind) == ["timeout of the corresponding sequence has been expired"]
    assert world.core.num_sequences == 0
