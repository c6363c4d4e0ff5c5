"""Ten thousand random and mutated messages: the server keeps serving and nobody else's answer changes."""

import asyncio
import random
from collections import Counter
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from protos.carryover.v1 import carryover_pb2 as pb
from tests.service.rpc.refusal import drained, refusal
from tests.service.rpc.world import World, wait_until

NUM_MESSAGES = 10_000
PREFIX = "/carryover.v1.Carryover/"
LM, G2P, TAGGER = (pb.ModelRef(name=name) for name in ("lm", "g2p", "tagger"))

SEEDS: dict[str, Any] = {
    "Tag": pb.TagRequest(model=TAGGER, sequences=[pb.TokenSequence(tokens=["the", "cät"])]),
    "Transduce": pb.TransduceRequest(model=G2P, source="abc", beam_size=2, num_best=2, length_penalty=0.5),
    "Generate": pb.GenerateRequest(model=LM, prompt="the cat", max_tokens=3, temperature=0.5, top_p=0.9, seed=7),
    "Score": pb.ScoreRequest(model=LM, texts=["the cat", "sat"]),
    "Session": pb.SessionRequest(request_id=1, step=pb.StepSession(session_id="1", token_ids=[1, 2], num_top=1)),
    "ListModels": pb.ListModelsRequest(),
    "GetModel": pb.GetModelRequest(model=LM),
}
# What a caller can be at fault for. UNKNOWN or INTERNAL would mean that our own code had tripped.
FAIR = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}


def strange(draw: random.Random, message: Message) -> None:
    """Fill every field of a message with values that may or may not make sense."""
    texts = ["", " ", "lm", "g2p", "tagger", "bitagger", "the", "abc", "\0", "\u202e\ufffd", "e\u0301" * 9, "x" * 99]
    for field in message.DESCRIPTOR.fields:
        if draw.random() < 0.2:
            continue
        values: list[Any] = texts
        if field.message_type is not None:
            make: Any = GetMessageClass(field.message_type)  # type: ignore[arg-type]
            values = [make() for _ in range(draw.randint(1, 3))]
            for value in values:
                strange(draw, value)
        elif field.cpp_type == field.CPPTYPE_FLOAT:
            values = [0.0, 0.5, 1.0, -1.0, 3e38, float("nan"), float("inf")]
        elif field.cpp_type != field.CPPTYPE_STRING:
            values = [0, 1, 2, 3, 12, 2**31 - 1] + [-1] * (field.cpp_type != field.CPPTYPE_UINT64)
        if field.is_repeated:
            getattr(message, field.name).extend(draw.choices(values, k=draw.randint(0, 3)))
        elif field.cpp_type == field.CPPTYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(values[0])
        else:
            setattr(message, field.name, draw.choice(values))


def garbage(draw: random.Random, method: str) -> bytes:
    """Random bytes, a well-formed message of strange values, or a good one with bytes changed, cut or put in."""
    match draw.randrange(3):
        case 0:
            return draw.randbytes(draw.randrange(64))
        case 1:
            message = type(SEEDS[method])()
            strange(draw, message)
            return bytes(message.SerializeToString())
    data = bytearray(SEEDS[method].SerializeToString())
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(4):
            case 0 if at < len(data):
                data[at] = draw.randrange(256)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[: draw.randrange(len(data) + 1)]
            case _:
                data[at:at] = draw.randbytes(draw.randint(1, 4))
    return bytes(data)


async def send(world: World, method: str, data: bytes) -> grpc.StatusCode:
    """Send raw bytes and give the status; the answer is not parsed."""
    make: Any
    if method == "Session":
        make = world.channel.stream_stream(PREFIX + method)
        call = make(timeout=30)
        await call.write(data)
        await call.done_writing()
    else:
        streams = method in ("Transduce", "Generate")
        make = (world.channel.unary_stream if streams else world.channel.unary_unary)(PREFIX + method)
        call = make(data, timeout=30)
    try:
        if method in ("Transduce", "Generate", "Session"):
            await drained(call)
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def bystander(world: World, until: asyncio.Event) -> int:
    """Ask the same things over and over, and step one session; count the rounds. Any difference fails."""
    expected = await drained(world.stub.Transduce(SEEDS["Transduce"]))
    tagged = await world.stub.Tag(SEEDS["Tag"])
    call: Any = world.stub.Session()
    await call.write(pb.SessionRequest(request_id=1, open=pb.OpenSession(model=LM)))
    session = (await call.read()).opened.session_id
    rounds = 0
    while not until.is_set():
        rounds += 1
        assert await drained(world.stub.Transduce(SEEDS["Transduce"])) == expected
        assert await world.stub.Tag(SEEDS["Tag"]) == tagged
        step = pb.StepSession(session_id=session, token_ids=[rounds % 12], num_top=1)
        await call.write(pb.SessionRequest(request_id=rounds, step=step))
        total = sum(r % 12 for r in range(1, rounds + 1))
        assert list((await call.read()).stepped.outputs[0].token_ids) == [total % 3]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return rounds


@pytest.mark.slow
async def test_ten_thousand_bad_messages_disturb_nobody(world: World) -> None:
    draw = random.Random(20)
    methods = sorted(SEEDS)
    ended = asyncio.Event()
    watching = asyncio.create_task(bystander(world, ended))
    seen: Counter[grpc.StatusCode] = Counter()
    for _ in range(NUM_MESSAGES // 50):
        batch = [draw.choice(methods) for _ in range(50)]
        seen.update(await asyncio.gather(*(send(world, method, garbage(draw, method)) for method in batch)))
    ended.set()
    assert await watching > 20
    assert sum(seen.values()) == NUM_MESSAGES
    assert set(seen) <= FAIR, seen
    assert min(seen[code] for code in FAIR) > 10, seen  # all of them were tried
    await wait_until(lambda: world.server.in_flight == 0)
    assert all(not engine.sessions for engine in world.engines.values())


# Not ListModels: it has no fields, and an unknown field may hold any bytes.
@pytest.mark.parametrize("method", sorted(set(SEEDS) - {"Session", "ListModels"}))
@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff", b"\x0a\x7f", b"\x0a\x02\x0a\x05", b"\x0a\x03\x0a\x01\xff", b"\x00"],
    ids=["bad tag", "cut short", "cut short inside", "not UTF-8", "field zero"],
)
async def test_bytes_that_are_no_message_are_invalid(world: World, method: str, data: bytes) -> None:
    channel: Any = world.channel
    if method in ("Transduce", "Generate"):
        got = await refusal(drained(channel.unary_stream(PREFIX + method)(data)))
    else:
        got = await refusal(channel.unary_unary(PREFIX + method)(data))
    assert (got.code, got.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request")
    assert f"expected a serialised carryover.v1.{method}Request" in got.message
    assert f"got {len(data)} bytes that are not" in got.message


async def test_an_unknown_method_is_unimplemented(world: World) -> None:
    call: Any = world.channel.unary_unary(PREFIX + "Nope")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
