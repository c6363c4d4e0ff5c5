"""What a client of the reference server expects of sequences, shown by sums that tell a state exactly."""

import asyncio
import logging

import pytest

from service.engine.interface import CloseSession, OpenSession, Priority, StepTensors
from service.errors import ShuttingDown
from tests.service.oip.inference.sequence import refused, settled, total
from tests.service.oip.world import World, accumulator, make_world, outputs_of, step, tensor


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
