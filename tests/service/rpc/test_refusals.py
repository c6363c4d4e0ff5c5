"""Every bad request: the right status, the field at fault, expected and got."""

import math
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from service.errors import DeadlineExceeded, InternalFailure, Overloaded, ShuttingDown
from tests.service.rpc.refusal import drained, refusal
from tests.service.rpc.world import World, serving

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING = grpc.StatusCode.NOT_FOUND
WRONG = grpc.StatusCode.FAILED_PRECONDITION


def ref(name: str, version: int = 0) -> pb.ModelRef:
    return pb.ModelRef(name=name, version=version)


def tag(*tokens: str, model: str = "tagger") -> pb.TagRequest:
    return pb.TagRequest(model=ref(model), sequences=[pb.TokenSequence(tokens=tokens)])


def transduce(**fields: Any) -> pb.TransduceRequest:
    values: dict[str, Any] = {"model": ref("g2p"), "source": "abc"} | fields
    return pb.TransduceRequest(**values)


def generate(**fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(**({"model": ref("lm")} | fields))


@dataclass(frozen=True)
class Case:
    """A request and what it gets; `says` are parts of the message."""

    method: str
    request: Any
    code: grpc.StatusCode
    field: str
    says: tuple[str, ...]


CASES = {
    "no model": Case("Tag", pb.TagRequest(), INVALID, "model.name", ("name of a model", "got nothing")),
    "unknown model": Case("Tag", tag("the", model="nope"), MISSING, "", ("g2p", "got 'nope'")),
    "negative version": Case("GetModel", pb.GetModelRequest(model=ref("lm", -1)), INVALID, "model.version", ("-1",)),
    "unknown version": Case("GetModel", pb.GetModelRequest(model=ref("lm", 4)), MISSING, "", ("expected 3", "got 4")),
    "get no model": Case("GetModel", pb.GetModelRequest(), INVALID, "model.name", ("got nothing",)),
    "tag a language model": Case("Tag", tag("the", model="lm"), WRONG, "", ("tagger", "language_model")),
    "score with a tagger": Case("Score", pb.ScoreRequest(model=ref("tagger"), texts=["a"]), WRONG, "", ("tagger",)),
    "transduce with a language model": Case("Transduce", transduce(model=ref("lm")), WRONG, "", ("encoder_decoder",)),
    "generate with a transducer": Case("Generate", generate(model=ref("g2p")), WRONG, "", ("language_model",)),
    "no sequence": Case("Tag", pb.TagRequest(model=ref("tagger")), INVALID, "sequences", ("1 to 64", "got 0")),
    "too many sequences": Case(
        "Tag",
        pb.TagRequest(model=ref("tagger"), sequences=[pb.TokenSequence(tokens=["the"])] * 65),
        INVALID,
        "sequences",
        ("1 to 64", "got 65"),
    ),
    "no word": Case("Tag", tag(), INVALID, "sequences[0].tokens", ("at least one",)),
    "empty word": Case("Tag", tag("the", ""), INVALID, "sequences[0].tokens[1]", ("a word", "got ''")),
    "blank word": Case("Tag", tag("the", "\u00a0\t"), INVALID, "sequences[0].tokens[1]", ("a word",)),
    "long word": Case("Tag", tag("x" * 11), INVALID, "sequences[0].tokens[0]", ("at most 10 characters",)),
    "long sentence": Case("Tag", tag(*["the"] * 17), INVALID, "sequences[0].tokens", ("at most 16", "17 words")),
    "long sentence for its longest word": Case(
        "Tag",
        tag(*["the"] * 9, "x" * 10),
        INVALID,
        "sequences[0].tokens",
        ("words times characters of the longest word", "at most 96", "10 words, the longest of 10"),
    ),
    "no text": Case("Score", pb.ScoreRequest(model=ref("lm")), INVALID, "texts", ("1 to 64", "got 0")),
    "empty text": Case("Score", pb.ScoreRequest(model=ref("lm"), texts=["the", ""]), INVALID, "texts[1]", ("got ''",)),
    "blank text": Case("Score", pb.ScoreRequest(model=ref("lm"), texts=["  \n"]), INVALID, "texts[0]", ("one token",)),
    "long text": Case(
        "Score", pb.ScoreRequest(model=ref("lm"), texts=["a " * 17]), INVALID, "texts[0]", ("17 tokens",)
    ),
    "huge text": Case(
        "Score",
        pb.ScoreRequest(model=ref("lm"), texts=["a" * 1025]),
        INVALID,
        "texts[0]",
        ("at most 1024 characters", "1025"),
    ),
    "empty source": Case("Transduce", transduce(source=""), INVALID, "source", ("got ''",)),
    "long source": Case("Transduce", transduce(source="a" * 17), INVALID, "source", ("at most 16", "17 tokens")),
    "negative beam": Case("Transduce", transduce(beam_size=-1), INVALID, "beam_size", ("1 to 4", "-1")),
    "wide beam": Case("Transduce", transduce(beam_size=5), INVALID, "beam_size", ("1 to 4", "got 5")),
    "more answers than beams": Case("Transduce", transduce(beam_size=2, num_best=3), INVALID, "num_best", ("1 to 2",)),
    "more answers than default beams": Case(
        "Transduce", transduce(num_best=3), INVALID, "num_best", ("1 to 2", "got 3")
    ),
    "penalty not a number": Case(
        "Transduce", transduce(length_penalty=math.nan), INVALID, "length_penalty", ("got nan",)
    ),
    "negative penalty": Case(
        "Transduce", transduce(length_penalty=-0.1), INVALID, "length_penalty", ("0 to 2", "-0.1")
    ),
    "great penalty": Case("Transduce", transduce(length_penalty=2.5), INVALID, "length_penalty", ("0 to 2", "2.5")),
    "negative length": Case("Transduce", transduce(max_tokens=-3), INVALID, "max_tokens", ("1 to 512", "-3")),
    "great length": Case("Generate", generate(max_tokens=513), INVALID, "max_tokens", ("1 to 512", "513")),
    "long prompt": Case("Generate", generate(prompt="a " * 17), INVALID, "prompt", ("at most 16", "17 tokens")),
    "blank prompt": Case("Generate", generate(prompt=" "), INVALID, "prompt", ("at least one token",)),
    "temperature not a number": Case("Generate", generate(temperature=math.nan), INVALID, "temperature", ("got nan",)),
    "infinite temperature": Case(
        "Generate", generate(temperature=math.inf), INVALID, "temperature", ("0 to 10", "inf")
    ),
    "negative temperature": Case("Generate", generate(temperature=-1), INVALID, "temperature", ("0 to 10", "-1")),
    "top_p zero": Case("Generate", generate(top_p=0), INVALID, "top_p", ("above 0 to 1", "got 0")),
    "top_p above one": Case("Generate", generate(top_p=1.5), INVALID, "top_p", ("above 0 to 1", "1.5")),
    "top_p not a number": Case("Generate", generate(top_p=math.nan), INVALID, "top_p", ("nan",)),
    "negative top_k": Case("Generate", generate(top_k=-1), INVALID, "top_k", ("1 to 12", "-1")),
    "top_k above the vocabulary": Case("Generate", generate(top_k=13), INVALID, "top_k", ("1 to 12", "13")),
}


def called(world: World, method: str, request: Any) -> Any:
    call = getattr(world.stub, method)(request, timeout=10)
    return drained(call) if method in ("Transduce", "Generate") else call


@pytest.mark.parametrize("name", CASES)
async def test_a_bad_request_is_refused_with_expected_and_got(world: World, name: str) -> None:
    case = CASES[name]
    got = await refusal(called(world, case.method, case.request))
    assert (got.code, got.field) == (case.code, case.field), got
    for part in (*case.says, "expected", "got"):
        assert part in got.message
    assert not any(engine.submitted for engine in world.engines.values())


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (Overloaded("8 requests are waiting", 0.5), grpc.StatusCode.RESOURCE_EXHAUSTED, "8 requests"),
        (ShuttingDown("the service is shutting down"), grpc.StatusCode.UNAVAILABLE, "shutting down"),
        (DeadlineExceeded("the deadline passed"), grpc.StatusCode.DEADLINE_EXCEEDED, "deadline"),
        (InternalFailure("slot 7 of /srv/models"), grpc.StatusCode.INTERNAL, "its log says why"),
    ],
)
@pytest.mark.parametrize("method", ["Tag", "Transduce"])
async def test_what_the_engine_refuses_becomes_a_status(
    world: World, error: Any, code: grpc.StatusCode, shown: str, method: str
) -> None:
    engine = world.engines["tagger" if method == "Tag" else "g2p"]
    engine.refusals = [error]
    got = await refusal(called(world, method, tag("the") if method == "Tag" else transduce()))
    assert (got.code, got.reason) == (code, error.reason)
    assert shown in got.message
    assert "slot 7" not in got.message


async def test_a_bug_in_a_call_is_internal_and_the_server_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("at row 7")

    monkeypatch.setattr(world.engines["tagger"], "events", explode)
    got = await refusal(world.stub.Tag(tag("the")))
    assert (got.code, got.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "row 7" not in got.message
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert len((await world.stub.Tag(tag("the"))).sequences) == 1


async def test_a_message_above_the_limit_is_refused_and_the_server_goes_on() -> None:
    async with serving(max_message_bytes=1024) as world:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.Score(pb.ScoreRequest(model=ref("lm"), texts=["x" * 2000]))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1024" in (caught.value.details() or "")
        assert len((await world.stub.Tag(tag("the"))).sequences) == 1
