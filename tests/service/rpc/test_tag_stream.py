"""Tag for many requests on one stream."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub
from service.engine.interface import Finished, RunSequence
from service.errors import DeadlineExceeded, InternalFailure, Overloaded
from tests.service.rpc.refusal import refusal, refusal_of_writer
from tests.service.rpc.tag_streams import TagStream, asking
from tests.service.rpc.world import WORDS, World, serving, wait_until


@pytest.fixture
def stream(world: World) -> TagStream:
    return TagStream(world)


def sentences(count: int) -> list[list[str]]:
    chosen = random.Random(3)
    words = [*WORDS.tokens[4:], "zebra"]
    return [
        [" ".join(chosen.choices(words, k=chosen.randint(1, 16))) for _ in range(chosen.randint(1, 4))]
        for _ in range(count)
    ]


async def test_answers_are_those_of_the_unary_call(world: World, stream: TagStream) -> None:
    asked = [asking(*each) for each in sentences(60)]
    await stream.send(*enumerate(asked[:50], 1))
    for i, request in enumerate(asked[50:], 51):
        await stream.send((i, request))
    got = {event.request_id: event.response for event in await stream.read(60)}
    assert sorted(got) == list(range(1, 61))
    for i, request in enumerate(asked, 1):
        assert got[i] == await world.stub.Tag(request), request
    assert len({str(answer) for answer in got.values()}) > 50
    await stream.end()


async def test_answers_come_as_they_are_ready(world: World, stream: TagStream) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    await stream.send((7, asking("the cat sat")), (8, asking("dog")), (9, asking("ran far")))
    await wait_until(lambda: len(engine.held) == 3)
    order = [3, 1, 2]
    works = list(engine.held)
    for place in order:
        engine.release(works[place - 1])
        (event,) = await stream.read(1)
        assert event.request_id == 6 + place
    assert [run.length for run in engine.submitted if isinstance(run, RunSequence)] == [3, 1, 2]


async def test_what_is_ready_together_is_one_message(world: World, stream: TagStream) -> None:
    await stream.send(*((i, asking("the cat")) for i in range(1, 41)))
    async with asyncio.timeout(10):
        first = await stream.call.read()
    assert len(first.events) > 10


async def test_the_sequences_of_a_request_are_answered_together_and_in_order(world: World, stream: TagStream) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    await stream.send((5, asking("the", "the cat", "the cat sat")))
    await wait_until(lambda: len(engine.held) == 3)
    for work in reversed(list(engine.held)):
        engine.release(work)
    (event,) = await stream.read(1)
    assert [list(s.tags) for s in event.response.sequences] == [["NOUN"], ["NOUN", "VERB"], ["NOUN", "VERB", "DET"]]
    assert (event.response.model.name, event.response.model.version) == ("tagger", 3)
    assert list(event.response.sequences[0].confidences) == pytest.approx([0.8])


@pytest.mark.parametrize(
    ("request_", "reason", "says"),
    [
        (asking(), "INVALID_INPUT", "sequences: expected 1 to 64 entries, got 0"),
        (asking(*["the"] * 65), "INVALID_INPUT", "sequences: expected 1 to 64 entries, got 65"),
        (asking("the", ""), "INVALID_INPUT", "sequences[1].tokens"),
        (asking("the " * 17), "INVALID_INPUT", "at most 16 words, got 17 words"),
        (asking("x" * 11), "INVALID_INPUT", "sequences[0].tokens[0]: expected at most 10 characters"),
        (asking("the", model=pb.ModelRef(name="nope")), "MODEL_NOT_FOUND", "got 'nope'"),
        (asking("the", model=pb.ModelRef(name="lm")), "WRONG_TASK", "language_model"),
        (asking("the", model=pb.ModelRef()), "INVALID_INPUT", "model.name"),
        (asking("the", priority=99), "INVALID_INPUT", "priority: expected a known priority, got 99"),
        (pb.TagRequest(), "INVALID_INPUT", "model.name"),
    ],
)
async def test_bad_requests_are_answered_one_by_one(
    stream: TagStream, request_: pb.TagRequest, reason: str, says: str
) -> None:
    error = await stream.fails(request_)
    assert (error.reason, says in error.message) == (reason, True), error
    assert (error.session_id, error.session_ended) == ("", False)
    assert (await stream.ask(asking("cat"), 2)).response.sequences[0].tags == ["VERB"]


async def test_a_refusal_says_field_and_status(stream: TagStream) -> None:
    error = await stream.fails(asking("the " * 17))
    assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    violation = pb.FieldViolation(field="sequences[0].tokens", expected="at most 16 words", got="17 words")
    assert list(error.violations) == [violation]


async def test_a_request_id_may_be_used_again_only_when_answered(world: World, stream: TagStream) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    assert "one above 0" in (await stream.fails(asking("the"), 0)).message
    await stream.send((7, asking("the")))
    for _ in range(2):
        assert "no command in flight has, got 7" in (await stream.fails(asking("cat"), 7)).message
    engine.hold = False
    (held,) = engine.held
    engine.release(held)
    (event,) = await stream.read(1)
    assert event.response.sequences[0].tags == ["NOUN"]
    assert (await stream.ask(asking("cat"), 7)).response.sequences[0].tags == ["VERB"]


async def test_one_failed_sequence_fails_its_request_and_stops_the_others(world: World, stream: TagStream) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    await stream.send((1, asking("the", "cat", "sat")), (2, asking("dog")))
    await wait_until(lambda: len(engine.held) == 4)
    first, second, third, other = engine.held
    engine.fail(second, DeadlineExceeded("too late"))
    (event,) = await stream.read(1)
    assert (event.request_id, event.error.reason) == (1, DeadlineExceeded.reason)
    assert engine.cancelled == [first, third]
    engine.release(other)
    (event,) = await stream.read(1)
    assert (event.request_id, list(event.response.sequences[0].tags)) == (2, ["DET"])
    await stream.end()


async def test_our_own_mistakes_are_internal_and_say_no_more(world: World, stream: TagStream) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    await stream.send((1, asking("the")), (2, asking("cat")))
    await wait_until(lambda: len(engine.held) == 2)
    broken, other = engine.held
    engine.fail(broken, InternalFailure("secret"))
    engine.publish([Finished(other, {})])  # lacks what the answer is made from
    for event in await stream.read(2):
        assert event.error.code == grpc.StatusCode.INTERNAL.value[0]
        assert "secret" not in event.error.message


async def test_what_the_engine_refuses_leaves_nothing_behind(world: World, stream: TagStream) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    submit, seen = engine.submit, []

    def refuse_the_third(request: Any) -> None:
        seen.append(request.id)
        if len(seen) == 3:
            raise Overloaded("expected room, got none", 2.5)
        submit(request)

    engine.submit = refuse_the_third  # type: ignore[method-assign]
    error = await stream.fails(asking("the", "cat", "sat"))
    assert (error.reason, error.retry_after_s) == ("OVERLOADED", 2.5)
    assert engine.cancelled == seen[:2]
    assert not engine.held
    await wait_until(lambda: not world.models.by_name["tagger"].bridge.unanswered)
    engine.hold = False
    assert (await stream.ask(asking("the"), 2)).response.sequences[0].tags == ["NOUN"]


async def test_cancelling_the_stream_frees_everything(world: World, stream: TagStream) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    await stream.send((1, asking("the", "cat")), (2, asking("sat")))
    await wait_until(lambda: len(engine.held) == 3)
    works = list(engine.held)
    stream.call.cancel()
    await wait_until(lambda: not world.server.in_flight)
    assert sorted(engine.cancelled) == works
    assert not engine.held
    await wait_until(lambda: not world.models.by_name["tagger"].bridge.unanswered)


async def test_half_closing_lets_what_was_sent_finish(world: World, stream: TagStream) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    await stream.send((1, asking("the")), (2, asking("cat")))
    await stream.call.done_writing()
    await wait_until(lambda: len(engine.held) == 2)
    for work in list(engine.held):
        engine.release(work)
    assert {event.request_id for event in await stream.read(2)} == {1, 2}
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK
    assert not engine.cancelled


async def test_the_deadline_of_the_stream_is_that_of_its_requests(world: World) -> None:
    stream = TagStream(world, timeout_s=30)
    loop = asyncio.get_running_loop()
    await stream.ask(asking("the", priority=pb.PRIORITY_HIGH))
    (run,) = world.engines["tagger"].submitted
    assert isinstance(run, RunSequence)
    assert run.deadline_s is not None
    assert 20 < run.deadline_s - loop.time() < 31  # both are time.monotonic
    assert run.priority == 1


@pytest.mark.parametrize("data", [b"\xff", b""], ids=["no message", "no commands"])
async def test_what_cannot_be_answered_ends_the_stream(world: World, data: bytes) -> None:
    call: Any = world.channel.stream_stream("/carryover.v1.Carryover/TagStream")()
    await call.write(data)
    got = await refusal(call.read())
    assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")


async def test_no_more_is_read_than_may_be_in_flight() -> None:
    async with serving(drain_timeout_s=0.05, max_requests_in_flight_per_stream=4) as world:
        engine, stream = world.engines["tagger"], TagStream(world)
        engine.hold = True
        await stream.send(*((i, asking("the")) for i in range(1, 101)))
        await wait_until(lambda: len(engine.held) == 4)
        for count in range(1, 97):
            engine.release(next(iter(engine.held)))
            await wait_until(lambda: len(engine.held) == 4)
            assert len(engine.submitted) == 4 + count
        engine.hold = False
        for work in list(engine.held):
            engine.release(work)
        assert sorted(event.request_id for event in await stream.read(100)) == list(range(1, 101))


async def test_a_long_message_does_not_keep_others_waiting() -> None:
    """Another caller is answered between the commands of one message."""
    async with serving(drain_timeout_s=0.05, max_requests_in_flight_per_stream=4000) as world:
        engine = world.engines["tagger"]
        engine.hold = True
        stream = TagStream(world)
        await stream.send(*((i, asking("the cat sat on the mat")) for i in range(1, 3001)))
        await wait_until(lambda: engine.submitted)
        await world.stub.ListModels(pb.ListModelsRequest())
        assert len(engine.submitted) < 3000
        await wait_until(lambda: len(engine.submitted) == 3000)


async def test_a_drain_lets_what_runs_finish_and_ends_idle_streams() -> None:
    async with serving(drain_timeout_s=5) as world:
        engine = world.engines["tagger"]
        busy, idle = TagStream(world), TagStream(world)
        await idle.ask(asking("cat"))
        engine.hold = True
        await busy.send((1, asking("the")))
        await wait_until(lambda: engine.held)
        stopping = asyncio.create_task(world.server.stop(linger_s=0))
        got = await refusal(idle.call.read())
        assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        error = await busy.fails(asking("cat"), 2)  # nothing new
        assert error.reason == "SHUTTING_DOWN"
        engine.release(*engine.held)
        (event,) = await busy.read(1)
        assert event.response.sequences[0].tags == ["NOUN"]
        assert await stopping is True
        assert (await refusal(busy.call.read())).reason == "SHUTTING_DOWN"


@asynccontextmanager
async def not_reading(world: World) -> AsyncIterator[Any]:
    """A caller with a small window who sends a thousand requests with large answers and reads nothing."""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    async with grpc.aio.insecure_channel(world.address, options) as channel:
        stub: Any = CarryoverStub(channel)
        call = stub.TagStream()

        async def send() -> None:
            for i in range(1, 1001):
                request = asking(*["the cat " * 256] * 3)
                await call.write(pb.TagStreamRequest(commands=[pb.TagCommand(request_id=i, request=request)]))

        sending = asyncio.create_task(send())
        yield call
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_who_does_not_read_is_read_no_further_and_cut_off() -> None:
    limits = {"max_input_tokens": 512, "max_sentence_characters": 4096, "max_requests_in_flight_per_stream": 8}
    async with serving(**limits, slow_reader_timeout_s=0.3, drain_timeout_s=0.05) as world:
        async with not_reading(world) as call:
            await wait_until(lambda: world.server.in_flight)
            await wait_until(lambda: not world.server.in_flight)
            assert len(world.engines["tagger"].submitted) < 3 * 200  # of three thousand

            async def read_to_end() -> None:
                while await call.read() is not grpc.aio.EOF:
                    pass

            got = await refusal_of_writer(read_to_end())
            if got is not None:
                assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
                assert "expected to be read within 0.3 s" in got.message
        assert not world.models.by_name["tagger"].bridge.unanswered
