"""What a client of the reference server expects of sequences, shown by sums that tell a state exactly."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable

import pytest

from service.bridge import Sink
from service.engine.interface import AnyRequest, CloseSession, OpenSession, Priority, StepTensors
from service.errors import DeadlineExceeded, InternalFailure, InvalidInput, Overloaded, ShuttingDown
from service.oip.errors import OipError
from service.oip.inference.answer import Answer
from service.oip.messages import InferResponse
from tests.service.oip.world import IDLE_TIMEOUT_S, World, accumulator, make_world, outputs_of, step, tensor

PATIENCE_S = 60.0


@pytest.fixture
async def world() -> World:
    return make_world(asyncio.get_running_loop())


def total(response: InferResponse) -> tuple[float, int]:
    """The one sum and the one number of steps of an answer."""
    outputs = outputs_of(response)
    return outputs["total"][0][0], outputs["count"][0]


async def refused(call: Callable[[], Answer]) -> OipError:
    with pytest.raises(OipError) as caught:
        await asyncio.wait_for(call(), PATIENCE_S)
    return caught.value


async def settled(*answers: Answer) -> list[object]:
    """What became of each, in the order given: totals, or the text of an error."""
    async with asyncio.timeout(PATIENCE_S):
        got = await asyncio.gather(*answers, return_exceptions=True)
    return [
        total(one) if isinstance(one, InferResponse) else one.message if isinstance(one, OipError) else type(one)
        for one in got
    ]


async def test_a_sequence_sums_what_it_is_given(world: World) -> None:
    begin = world.core.begin
    assert total(await begin(step(5, [1, 2], start=True))) == (3, 1)
    assert total(await begin(step(5, [4, 0]))) == (7, 2)
    assert total(await begin(step(5, [1, 1], end=True))) == (9, 3)
    assert world.engine.sessions == {}
    assert world.core.num_sequences == 0


async def test_a_sequence_may_be_one_request_long(world: World) -> None:
    assert total(await world.core.begin(step("one", [3], start=True, end=True))) == (3, 1)
    assert world.engine.sessions == {}
    assert "START" in (await refused(lambda: world.core.begin(step("one", [3])))).message


@pytest.mark.parametrize(("sequence_id", "named"), [(7, "7"), ("seven", "seven")])
async def test_a_request_of_no_sequence_must_say_start(world: World, sequence_id: int | str, named: str) -> None:
    error = await refused(lambda: world.core.begin(step(sequence_id, [1])))
    assert (error.code, error.message) == (
        "invalid_argument",
        f"inference request for sequence {named} to model 'sums' must specify the START flag on the first request of "
        "the sequence",
    )
    assert world.engine.submitted == []


@pytest.mark.parametrize("sequence_id", [None, 0, ""])
async def test_a_model_with_state_needs_a_sequence_id(world: World, sequence_id: int | str | None) -> None:
    error = await refused(lambda: world.core.begin(step(sequence_id, [1], start=True)))
    assert (error.code, error.message) == (
        "invalid_argument",
        "inference request to model 'sums' must specify a non-zero or non-empty correlation ID",
    )


async def test_ids_of_two_callers_or_two_types_are_different_sequences(world: World) -> None:
    begin = world.core.begin
    await begin(step(1, [1], start=True, caller="a"))
    await begin(step(1, [10], start=True, caller="b"))
    await begin(step("1", [100], start=True, caller="b"))
    assert total(await begin(step(1, [1], caller="a"))) == (2, 2)
    assert total(await begin(step(1, [1], caller="b"))) == (11, 2)
    assert total(await begin(step("1", [1], caller="b"))) == (101, 2)
    assert (await refused(lambda: begin(step(1, [1])))).code == "invalid_argument"


async def test_start_on_a_live_id_ends_the_old_sequence_behind_what_it_has_pending(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    begin, engine = world.core.begin, world.engine
    engine.hold = True
    with caplog.at_level(logging.WARNING):
        answers = [begin(step(1, [1], start=True)), begin(step(1, [2])), begin(step(1, [10], start=True))]
    assert "started again before its end" in caplog.text
    kinds = [type(request) for request in engine.submitted]
    assert kinds == [OpenSession, StepTensors, StepTensors, CloseSession, OpenSession, StepTensors]
    engine.release_all()
    assert await settled(*answers) == [(1, 1), (3, 2), (10, 1)]
    engine.hold = False
    assert total(await begin(step(1, [5]))) == (15, 2)
    assert len(engine.sessions) == 1


async def test_who_starts_again_and_again_does_not_flood_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            await world.core.begin(step(1, [1], start=True))
    assert caplog.text.count("started again before its end") == 1
    assert len(world.engine.sessions) == 1


async def test_answers_of_one_id_keep_their_order_over_a_restart(world: World) -> None:
    begin, engine = world.core.begin, world.engine
    engine.hold = True
    order: list[str] = []
    answers = []
    for name, request in (("a", step(1, [1], start=True)), ("b", step(1, [2], end=True)),
                          ("c", step(1, [10], start=True, end=True)), ("d", step(1, [20], start=True))):  # fmt: skip
        answers.append(begin(request))
        answers[-1].add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    by_session: dict[int, list[int]] = {}
    for submitted in engine.submitted:
        assert isinstance(submitted, OpenSession | StepTensors | CloseSession)
        by_session.setdefault(submitted.session, []).append(submitted.id)
    first, second, third = by_session.values()
    for request_id in (*third, *second):
        engine.release(request_id)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == []
    for request_id in first:
        engine.release(request_id)
    assert await settled(*answers) == [(1, 1), (3, 2), (10, 1), (20, 1)]
    assert order == ["a", "b", "c", "d"]
    assert world.core.num_sequences == 1


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


async def test_a_sequence_stays_with_the_version_that_it_began_on() -> None:
    world = make_world(asyncio.get_running_loop(), accumulator(1))
    begin = world.core.begin
    await begin(step(1, [1], start=True))
    newer = make_world(asyncio.get_running_loop(), accumulator(2))
    world.models.put(newer.models.by_name["sums"])
    assert (await begin(step(1, [1]))).model_version == "1"
    assert (await begin(step(1, [1], version="1"))).model_version == "1"
    assert "START" in (await refused(lambda: begin(step(1, [1], version="2")))).message
    world.models.remove(world.models.versions("sums")[1])  # served no more, but for the sequences that it has
    assert total(await begin(step(1, [1]))) == (4, 4)
    assert (await begin(step(1, [1], start=True))).model_version == "2"
    assert world.engines["sums", 1].sessions == {}


async def test_a_sequence_that_is_carried_over_goes_on_with_the_newer_version() -> None:
    world = make_world(asyncio.get_running_loop(), accumulator(1))
    begin, old = world.core.begin, world.engines["sums", 1]
    first = begin(step(1, [1], start=True))
    await first
    newer = make_world(asyncio.get_running_loop(), accumulator(2))
    model, engine = newer.models.by_name["sums"], newer.engines["sums", 2]
    world.models.put(model)
    world.models.put(make_world(asyncio.get_running_loop(), accumulator(3)).models.by_name["sums"])
    sequence = first.sequence
    assert sequence is not None
    old.hold = True
    waiting = begin(step(1, [2], timeout=1))
    (request,) = (old.held.pop(waiting.work),)
    engine.sessions[sequence.session] = old.sessions.pop(sequence.session)
    sequence.moved(model)
    engine.begun.add(request.id)  # so that it has no timeout there, whatever the old engine says
    engine.hold = True
    model.bridge.submit(request, waiting)
    assert "START" in (await refused(lambda: begin(step(1, [4], version="3")))).message
    behind = [begin(step(1, [4], version="1")), begin(step(1, [8], version="2", end=True))]  # both are its version
    engine.release_all()
    answers = [waiting, *behind]
    assert [total(await answer) for answer in answers] == [(3, 2), (7, 3), (15, 4)]
    assert [(await answer).model_version for answer in answers] == ["2"] * 3
    assert [one["inference_count"] for one in world.core.statistics("sums")] == [1, 3, 0]


async def test_a_sequence_of_a_version_that_has_ended_says_so(world: World) -> None:
    begin = world.core.begin
    await begin(step(1, [1], start=True))
    world.engine.refusals = [ShuttingDown("ended")]
    error = await refused(lambda: begin(step(1, [1])))
    assert (error.code, error.message) == (
        "unavailable",
        "Request for unknown model: 'sums' version 1 is not at ready state",
    )
    assert world.core.num_sequences == 0


async def test_while_draining_sequences_go_on_and_none_begins(world: World) -> None:
    begin = world.core.begin
    await begin(step(1, [1], start=True))
    world.core.drain()
    assert not world.core.is_ready
    assert total(await begin(step(1, [1]))) == (2, 2)
    for started in (step(1, [1], start=True), step(2, [1], start=True)):
        error = await refused(lambda started=started: begin(started))  # type: ignore[misc]
        assert (error.code, error.message) == (
            "unavailable",
            "Server is stopping, scheduler for model has stopped accepting new inference requests",
        )
    assert total(await begin(step(1, [1], end=True))) == (3, 3)


async def test_several_steps_go_in_one_request_along_time(world: World) -> None:
    begin = world.core.begin
    await begin(step(1, [10], start=True))
    response = await begin(step(1, [[1], [2], [3]]))
    assert outputs_of(response) == {"total": [[[11], [13], [16]]], "count": [[2, 3, 4]]}
    one = await begin(step(1, [[4]]))
    assert outputs_of(one) == {"total": [[[20]]], "count": [[5]]}


async def test_states_are_told_when_asked_for_and_only_then(world: World) -> None:
    begin = world.core.begin
    assert [output.name for output in (await begin(step(1, [1], start=True))).outputs] == ["total", "count"]
    response = await begin(step(1, [[2], [3]], outputs=["count_out", "total", "total_out"], end=True))
    assert outputs_of(response) == {"count_out": [3], "total": [[[3], [6]]], "total_out": [[6]]}
    assert world.engine.sessions == {}


async def test_states_alone_may_be_asked_for(world: World) -> None:
    response = await world.core.begin(step(1, [4], start=True, outputs=["total_out"]))
    assert outputs_of(response) == {"total_out": [[4]]}
    (request,) = [request for request in world.engine.submitted if isinstance(request, StepTensors)]
    assert request.outputs == ()


async def test_a_sequence_may_start_from_a_given_state(world: World) -> None:
    begin = world.core.begin
    given = (tensor("total_in", [[100]]), tensor("count_in", [7], "int64", "INT64"))
    assert total(await begin(step(1, [1], *given, start=True))) == (101, 8)
    assert total(await begin(step(2, [1], given[0], start=True))) == (101, 1)
    assert total(await begin(step(3, [1], tensor("total_in", 50.0 * given[0].array[0]), start=True))) == (5001, 1)
    for request in (step(1, [1], *given), step(4, [1], tensor("total_in", [[float("nan")]]), start=True)):
        assert (await refused(lambda request=request: begin(request))).code == "invalid_argument"  # type: ignore[misc]
    assert total(await begin(step(1, [1]))) == (102, 9)


async def test_priority_is_that_of_the_start(world: World) -> None:
    for sequence, level in enumerate((0, 1, 2, 3, 9), start=1):
        await world.core.begin(step(sequence, [1], start=True, priority=level))
    opened = [request.priority for request in world.engine.submitted if isinstance(request, OpenSession)]
    assert opened == [Priority.NORMAL, Priority.HIGH, Priority.NORMAL, Priority.LOW, Priority.LOW]


async def test_a_request_that_is_no_good_changes_nothing(world: World) -> None:
    begin = world.core.begin
    await begin(step(1, [1], start=True))
    bad = step(1, [1], tensor("other", [1]), start=True)
    assert (await refused(lambda: begin(bad))).code == "invalid_argument"
    assert total(await begin(step(1, [1]))) == (2, 2)
