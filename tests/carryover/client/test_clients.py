"""Both clients against one server, on engines of simple arithmetic."""

import asyncio
import inspect
import math
import time
from typing import TypeVar

import pytest

from carryover.client import errors, messages
from carryover.client.aio import AsyncClient
from carryover.client.aio_session import AsyncSession
from carryover.client.session import Session
from carryover.client.sync import Client
from carryover.client.types import GenerateResult, ModelRef, TransduceResult
from protos.carryover.v1 import carryover_pb2 as pb
from tests.carryover.client.calling import blocking
from tests.service.rpc.world import serving, wait_until

T = TypeVar("T")


@pytest.mark.parametrize(("one", "other"), [(Client, AsyncClient), (Session, AsyncSession)])
def test_both_clients_have_the_same_calls(one: type, other: type) -> None:
    def calls(cls: type) -> dict[str, list[str]]:
        public = {name: value for name, value in vars(cls).items() if not name.startswith("_") and callable(value)}
        return {name: list(inspect.signature(value).parameters) for name, value in public.items() if name != "open"}

    assert calls(one) == calls(other)
    assert len(calls(one)) > 1


async def test_the_asyncio_client_makes_every_call() -> None:
    async with serving() as world, AsyncClient(world.address, timeout_s=10) as client:
        (tagged,) = await client.tag("tagger", [["the", "cat"]])
        assert tagged.tags == ("NOUN", "VERB")
        assert tagged.confidences == pytest.approx((0.8, 0.8))
        (score,) = await client.score("lm", ["the cat"])
        assert score.tokens == ("the", "cat", "</s>")
        assert math.isclose(score.total_log_prob, -1.2, rel_tol=1e-6)
        async with client.transduce("g2p", "abc", num_best=2) as stream:
            assert "".join([token.text async for token in stream]) == stream.result.text == "the cat sat"
        assert [h.score for h in stream.result.hypotheses] == [-0.5, -1.5]
        assert stream.result.hypotheses[0].finish_reason == "end"
        assert (await client.transduce("g2p", "aé").finish()).num_unknown_source_tokens == 1
        made = await client.generate("lm", "the", max_tokens=3, seed=5).finish()
        assert (made.text, made.seed, made.finish_reason, made.num_tokens) == (" mat dog ran", 5, "length", 3)
        assert (await client.generate("lm", "no such words", seed=5).finish()).num_unknown_prompt_tokens == 3
        models = await client.models()
        assert [model.ref.name for model in models.models] == ["bitagger", "g2p", "lm", "tagger"]
        assert models.refused[0].reason == "graphs"
        model = await client.model("lm")
        assert (model.ref, model.task, model.supports_sessions) == (ModelRef("lm", 3), "language_model", True)
        assert (model.load.num_slots, model.load.free_slots, model.limits.top_k) == (10, 8, 3)
        assert model.precision == "fp32"
        assert (model.limits.max_sessions, model.limits.max_word_characters) == (7, 0)
        assert (model.limits.max_message_bytes, model.limits.max_requests_in_flight_per_stream) == (4 * 2**20, 1024)
        assert model.limits.session_idle_timeout_s == 600
        tagger = (await client.model("tagger")).limits
        assert (tagger.max_word_characters, tagger.max_sentence_characters) == (10, 96)
        assert await client.is_serving()
        assert await client.is_serving("lm")
        assert not await client.is_serving("nope")


async def test_the_blocking_client_makes_every_call() -> None:
    async with serving() as world:
        assert (await blocking(world, lambda c: c.tag("tagger", [["the"]])))[0].tags == ("NOUN",)
        assert (await blocking(world, lambda c: c.score("lm", ["the"])))[0].tokens == ("the", "</s>")

        def transduce(client: Client) -> list[str]:
            with client.transduce("g2p", "abc", beam_size=2) as stream:
                texts = [token.text for token in stream]
            return [*texts, stream.result.text]

        assert await blocking(world, transduce) == ["the", " cat", " sat", "the cat sat"]
        assert (await blocking(world, lambda c: c.generate("lm", max_tokens=2).finish())).num_tokens == 2
        assert len((await blocking(world, lambda c: c.models())).models) == 4
        assert (await blocking(world, lambda c: c.model("g2p"))).task == "encoder_decoder"
        assert await blocking(world, lambda c: c.is_serving("g2p", wait=True))
        assert not await blocking(world, lambda c: c.is_serving("nope"))


def test_what_a_newer_server_may_send_is_unknown_not_something_else() -> None:
    hypothesis = pb.Hypothesis(finish_reason=9)  # type: ignore[arg-type]
    found = messages.transduce_event(pb.TransduceResponse(result=pb.TransduceResult(hypotheses=[hypothesis])))
    assert isinstance(found, TransduceResult)
    assert found.best.finish_reason == "unknown"
    made = messages.generate_event(pb.GenerateResponse(result=pb.GenerateResult(finish_reason=9)))  # type: ignore[arg-type]
    assert isinstance(made, GenerateResult)
    assert made.finish_reason == "unknown"
    model = messages.model(pb.Model(task=9, precision=9))  # type: ignore[arg-type]
    assert (model.task, model.precision) == ("unknown", "unknown")
    refused = pb.RefusedModel(reason=9)  # type: ignore[arg-type]
    assert messages.model_list(pb.ListModelsResponse(refused=[refused])).refused[0].reason == "unknown"


async def test_every_call_has_a_deadline() -> None:
    async with serving() as world:
        for engine in world.engines.values():
            engine.hold = True
        async with AsyncClient(world.address, timeout_s=0.05) as client:
            for call in (client.tag("tagger", [["the"]]), client.score("lm", ["the"])):
                with pytest.raises(errors.DeadlineExceeded):
                    await call
            for stream in (client.transduce("g2p", "a"), client.generate("lm")):
                with pytest.raises(errors.DeadlineExceeded):
                    await stream.finish()

        def act(client: Client) -> None:
            with pytest.raises(errors.DeadlineExceeded):
                client.tag("tagger", [["the"]], timeout_s=0.05)
            with pytest.raises(errors.DeadlineExceeded):
                client.transduce("g2p", "a", timeout_s=0.05).finish()

        await blocking(world, act)
        await wait_until(lambda: not any(engine.held for engine in world.engines.values()))


async def test_leaving_a_stream_cancels_it_at_the_server() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        engine = world.engines["g2p"]
        engine.hold = True
        stream = client.transduce("g2p", "abc")
        reading = asyncio.create_task(anext(stream))
        await wait_until(lambda: engine.held)
        stream.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await wait_until(lambda: engine.cancelled)

        def act(blocked: Client) -> None:
            own = blocked.transduce("g2p", "abc")
            own.cancel()
            with pytest.raises(errors.Cancelled):
                own.finish()
            with pytest.raises(errors.CarryoverError, match="unfinished"):
                own.result  # noqa: B018 - reading it is what raises

        await blocking(world, act)


async def test_what_cannot_be_sent_is_refused_here() -> None:
    async with serving() as world, AsyncClient(world.address) as client:
        for act, says in (
            (lambda: client.transduce("g2p", "a\udcff"), "lone surrogate at position 1"),
            (lambda: client.transduce("g2p", "a", beam_size=2**31), "beam_size: expected 0 to 2147483647"),
            (lambda: client.transduce("g2p", "a", version=-1), "version: expected 0 to"),
            (lambda: client.generate("lm", seed=-1), "seed: expected 0 to 18446744073709551615, got -1"),
            (lambda: client.transduce("g2p", 5), "request: "),  # type: ignore[arg-type]
        ):
            with pytest.raises(errors.InvalidArgument, match=says):
                act()
        with pytest.raises(errors.InvalidArgument, match="a sequence of words, got the string 'the cat'"):
            await client.tag("tagger", ["the cat"])
        with pytest.raises(errors.InvalidArgument, match="a sequence of texts"):
            await client.score("lm", "the cat")
        async with client.session("lm") as session:
            with pytest.raises(errors.InvalidArgument, match="exactly one of them, got neither"):
                await session.step()
            with pytest.raises(errors.InvalidArgument, match="exactly one of them, got both"):
                await session.step(["the"], token_ids=[1])
            with pytest.raises(errors.InvalidArgument, match="a sequence of tokens, got the string"):
                await session.step("the")
            assert await session.step(["the"])
        assert not world.engines["g2p"].submitted


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with serving() as world:
        address = world.address
    before = time.monotonic()
    async with AsyncClient(address, timeout_s=100) as client:
        for call in (client.models(), client.is_serving(), client.transduce("g2p", "a").finish()):
            with pytest.raises(errors.Unavailable):
                await call
        with pytest.raises(errors.DeadlineExceeded):
            await client.is_serving(wait=True, timeout_s=0.05)
    assert time.monotonic() - before < 90, "it is told at once, not when the time is up"


async def test_a_server_that_stops_ends_the_sessions_of_its_clients() -> None:
    async with serving(drain_timeout_s=0.05) as world, AsyncClient(world.address, reconnect_s=0.2) as client:
        session = client.session("lm")
        await session.open()
        await world.server.stop(linger_s=0)
        with pytest.raises(errors.Unavailable):
            await session.step(["the"])
        with pytest.raises(errors.Unavailable):
            await session.step(["the"])
