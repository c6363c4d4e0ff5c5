"""Many sentences over one stream, with both clients."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from carryover.client import errors
from carryover.client.aio import AsyncClient
from carryover.client.aio_tagging import tag_many
from carryover.client.sync import Client
from carryover.client.tag_window import TagWindow
from carryover.client.types import TaggedSequence
from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import AnyRequest, RunSequence
from service.errors import Overloaded
from tests.carryover.client.calling import wait_here
from tests.service.rpc.world import WORDS, World, serving, wait_until

Sentences = Iterable[list[str]]
# Opens a client, tags some sentences in order and gives what came and the error that ended it, if any.
Many = Callable[..., "asyncio.Task[tuple[list[TaggedSequence], Exception | None]]"]


async def _awaited(world: World, sentences: Sentences, **options: Any) -> tuple[list[TaggedSequence], Exception | None]:
    got: list[TaggedSequence] = []
    async with AsyncClient(world.address, timeout_s=10) as client:
        try:
            async for tagged in client.tag_many(options.pop("model", "tagger"), sentences, **options):
                got.append(tagged)
        except Exception as error:
            return got, error
    return got, None


def _blocked(world: World, sentences: Sentences, **options: Any) -> tuple[list[TaggedSequence], Exception | None]:
    got: list[TaggedSequence] = []
    with Client(world.address, timeout_s=10) as client:
        try:
            for tagged in client.tag_many(options.pop("model", "tagger"), sentences, **options):
                got.append(tagged)
        except Exception as error:
            return got, error
    return got, None


@pytest.fixture(params=["asyncio", "blocking"])
def many(request: pytest.FixtureRequest) -> Many:
    def start(world: World, sentences: Sentences, **options: Any) -> Any:
        if request.param == "asyncio":
            return asyncio.create_task(_awaited(world, sentences, **options))
        return asyncio.create_task(asyncio.to_thread(_blocked, world, sentences, **options))

    return start


def drawn(count: int) -> list[list[str]]:
    draw = random.Random(5)
    return [draw.choices(WORDS.tokens[4:], k=draw.randint(1, 12)) for _ in range(count)]


def expected(sentence: list[str]) -> tuple[str, ...]:
    return tuple(("DET", "NOUN", "VERB")[WORDS.id_of(word) % 3] for word in sentence)


async def test_answers_are_in_order_and_those_of_tag(world: World, many: Many) -> None:
    sentences = drawn(500)
    got, error = await many(world, iter(sentences), version=3, priority="high")
    assert error is None
    assert [one.tags for one in got] == [expected(sentence) for sentence in sentences]
    async with AsyncClient(world.address) as client:
        for i in range(0, 500, 50):
            assert got[i : i + 50] == await client.tag("tagger", sentences[i : i + 50])
    assert {run.priority for run in world.engines["tagger"].submitted[:500] if isinstance(run, RunSequence)} == {1}
    await wait_until(lambda: not world.server.in_flight)


async def test_nothing_to_tag(world: World, many: Many) -> None:
    assert await many(world, []) == ([], None)


async def test_answers_out_of_order_are_put_in_order(world: World, many: Many) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    sentences = drawn(40)
    running = many(world, sentences)
    await wait_until(lambda: len(engine.held) == 40)
    works = list(engine.held)
    random.Random(7).shuffle(works)
    for work in works:
        engine.release(work)
        await asyncio.sleep(0)
    got, error = await running
    assert error is None
    assert [one.tags for one in got] == [expected(sentence) for sentence in sentences]


async def test_no_more_are_taken_and_sent_than_the_window_is_wide(world: World, many: Many) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    num_taken = 0

    def counted() -> Iterator[list[str]]:
        nonlocal num_taken
        for sentence in drawn(30):
            num_taken += 1
            yield sentence

    running = many(world, counted(), max_in_flight=5)
    for done in range(26):
        await wait_until(lambda: len(engine.held) == 5)
        assert (len(engine.submitted), num_taken) == (done + 5, done + 5)
        engine.release(next(iter(engine.held)))
    engine.hold = False
    for work in list(engine.held):
        engine.release(work)
    got, error = await running
    assert (len(got), error) == (30, None)


async def test_a_window_wider_than_the_server_lets_be_in_flight(many: Many) -> None:
    async with serving(drain_timeout_s=0.05, max_requests_in_flight_per_stream=3) as world:
        sentences = drawn(400)
        got, error = await many(world, sentences, max_in_flight=300)
        assert error is None
        assert [one.tags for one in got] == [expected(sentence) for sentence in sentences]


async def test_more_in_flight_than_a_connection_buffers(many: Many) -> None:
    limits = {"max_input_tokens": 512, "max_sentence_characters": 4096, "max_requests_in_flight_per_stream": 64}
    async with serving(drain_timeout_s=0.05, **limits) as world:
        got, error = await many(world, [["the", "cat"] * 256] * 512, max_in_flight=256)
        assert error is None
        assert {one.tags for one in got} == {("NOUN", "VERB") * 256}
        assert len(got) == 512


async def test_a_refused_sentence_raises_at_its_turn_and_the_rest_stops(world: World, many: Many) -> None:
    sentences = [*drawn(3), ["x" * 11], *drawn(3)]
    got, error = await many(world, sentences)
    assert [one.tags for one in got] == [expected(sentence) for sentence in sentences[:3]]
    assert isinstance(error, errors.InvalidArgument)
    assert [violation.field for violation in error.violations] == ["sentences[3].tokens[0]"]
    assert error.message.startswith("sentences[3].tokens[0]: expected at most 10 characters")
    assert (error.metadata["field"], error.metadata["sentence"]) == ("sentences[3].tokens[0]", "3")
    await wait_until(lambda: not world.server.in_flight)


async def test_overload_says_when_to_come_back(world: World, many: Many) -> None:
    world.engines["tagger"].refusals.append(Overloaded("expected room, got none", 2.5))
    got, error = await many(world, drawn(3))
    assert got == []
    assert isinstance(error, errors.ResourceExhausted)
    assert (error.retry_after_s, error.message) == (2.5, "sentences[0]: expected room, got none")


async def test_what_is_wrong_is_said_before_it_is_sent(world: World, many: Many) -> None:
    for num_before, width in ((0, 2), (1, 2), (2, 2), (3, 2), (3, 64)):
        got, error = await many(world, [["the"]] * num_before + ["the cat", ["the"]], max_in_flight=width)
        assert isinstance(error, errors.InvalidArgument)
        assert f"sentences[{num_before}].tokens: expected a sequence of words, got the string 'the cat'" in str(error)
        assert [one.tags for one in got] == [("NOUN",)] * num_before  # it raises in its turn
    assert len(world.engines["tagger"].submitted) == 1 + 2 + 3 + 3
    _, error = await many(world, [["the"]], max_in_flight=0)
    assert isinstance(error, ValueError)
    assert "max_in_flight: expected at least 1, got 0" in str(error)
    _, error = await many(world, [["the"]], model="lm")
    assert isinstance(error, errors.FailedPrecondition)


async def test_its_deadline_ends_it(world: World, many: Many) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    got, error = await many(world, drawn(3), timeout_s=0.2)
    assert got == []
    assert isinstance(error, errors.DeadlineExceeded)
    await wait_until(lambda: not world.server.in_flight and not engine.held)


async def test_a_server_that_is_not_there(many: Many) -> None:
    async with serving(drain_timeout_s=0.05) as world:
        pass
    got, error = await many(world, drawn(3))
    assert got == []
    assert isinstance(error, errors.Unavailable)


class LateWriter:
    """A stream whose answers come before it is known that the sentences were sent."""

    def __init__(self) -> None:
        self._sent: asyncio.Queue[pb.TagStreamRequest] = asyncio.Queue()
        self._answered = asyncio.Event()

    async def write(self, message: pb.TagStreamRequest) -> None:
        self._answered.clear()
        self._sent.put_nowait(message)
        await self._answered.wait()
        for _ in range(5):
            await asyncio.sleep(0)

    async def read(self) -> pb.TagStreamResponse:
        message = await self._sent.get()
        self._answered.set()
        answer = pb.TagResponse(sequences=[pb.TaggedSequence(tags=["X"])])
        return pb.TagStreamResponse(
            events=[pb.TagEvent(request_id=c.request_id, response=answer) for c in message.commands]
        )

    def cancel(self) -> None:
        pass


async def test_an_answer_that_is_read_before_its_write_is_done() -> None:
    window = TagWindow("tagger", 0, drawn(7), "normal", 3)
    async with asyncio.timeout(60):
        got = [one.tags async for one in tag_many(LateWriter, window)]
    assert got == [("X",)] * 7


async def test_leaving_early_frees_everything(world: World) -> None:
    engine = world.engines["tagger"]
    submit, cat = engine.submit, WORDS.id_of("cat")

    def hold_cats(request: AnyRequest) -> None:
        assert isinstance(request, RunSequence)
        engine.hold = request.inputs["words"][0] == cat
        submit(request)

    engine.submit = hold_cats  # type: ignore[method-assign]
    sentences = [["the"], ["cat"], ["cat"]]
    async with AsyncClient(world.address, timeout_s=10) as client:
        tagging = client.tag_many("tagger", sentences)
        assert (await anext(tagging)).tags == ("NOUN",)
        await wait_until(lambda: len(engine.held) == 2)
        await tagging.aclose()
        await wait_until(lambda: not world.server.in_flight and not engine.held)

    def blocked() -> None:
        with Client(world.address, timeout_s=10) as client:
            for _ in client.tag_many("tagger", sentences):
                wait_here(lambda: len(engine.held) == 2)
                break
            wait_here(lambda: not world.server.in_flight and not engine.held)  # the client itself stays

    await asyncio.to_thread(blocked)
