"""Ten thousand random and mutated messages: the server keeps serving and nobody else's answer changes."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from models.tokenizer import Tokenizer
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub
from service.bridge import Bridge
from service.engine.engine import Engine
from service.engine.interface import Publish
from service.engine.limits import EngineLimits
from service.models import Limits, LiveModel, Models
from service.rpc.server import RpcServer
from service.runtime.opening import open_runner
from service.runtime.runner import Runner, RunnerConfig
from service.settings import Settings
from tests.service.bundles import TINY
from tests.service.rpc.refusal import drained, refusal
from tests.service.rpc.streams import message, only
from tests.service.rpc.world import World, wait_until
from tests.service.tiny_models import make_table, write_encoder_decoder, write_language_model

NUM_MESSAGES = 10_000
PREFIX = "/carryover.v1.Carryover/"
LM, G2P, TAGGER = (pb.ModelRef(name=name) for name in ("lm", "g2p", "tagger"))

SEEDS: dict[str, Any] = {
    "Tag": pb.TagRequest(model=TAGGER, sequences=[pb.TokenSequence(tokens=["the", "cät"])]),
    "Transduce": pb.TransduceRequest(model=G2P, source="abc", beam_size=2, num_best=2, length_penalty=0.5),
    "Generate": pb.GenerateRequest(model=LM, prompt="the cat", max_tokens=3, temperature=0.5, top_p=0.9, seed=7),
    "Score": pb.ScoreRequest(model=LM, texts=["the cat", "sat"]),
    "Session": message(1, step=pb.StepSession(session_id="1", token_ids=[1, 2], num_top=1)),
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
            values = [0, 1, 2, 3, 12, 2**31 - 1] + [-1] * (
                field.cpp_type not in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
            )
        elif field.type == field.TYPE_BYTES:
            values = [text.encode() for text in texts]
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
    await call.write(message(1, open=pb.OpenSession(model=LM)))
    session = (await only(call)).opened.session_id
    rounds = 0
    while not until.is_set():
        rounds += 1
        assert await drained(world.stub.Transduce(SEEDS["Transduce"])) == expected
        assert await world.stub.Tag(SEEDS["Tag"]) == tagged
        step = pb.StepSession(session_id=session, token_ids=[rounds % 12], num_top=1)
        await call.write(message(rounds, step=step))
        total = sum(r % 12 for r in range(1, rounds + 1))
        assert list((await only(call)).stepped.outputs[0].token_ids) == [total % 3]
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


@asynccontextmanager
async def serving_for_real(folder: Path) -> AsyncIterator[World]:
    """Serve tiny models `g2p` and `lm` on real engines."""
    written = []
    for name, write in (("g2p", write_encoder_decoder), ("lm", write_language_model)):
        (folder / name).mkdir()
        written.append(write(folder / name, make_table()).model_copy(update={"name": name}))
    settings = Settings.model_validate({"port": 0, "num_slots": 64, "drain_timeout_s": 5})
    loop, engines, live = asyncio.get_running_loop(), [], []
    for manifest in written:
        runner = open_runner(folder / manifest.name, manifest, RunnerConfig("cpu", 1, 64, 1024))

        def connect(publish: Publish, runner: Runner = runner) -> Engine:
            engines.append(
                Engine(
                    runner,
                    EngineLimits(session_slots=settings.session_slots, max_sessions=settings.session_slots),
                    publish,
                )
            )
            engines[-1].start()
            return engines[-1]

        tokenizers = {role: Tokenizer("characters", TINY) for role in manifest.tokenizers}
        live.append(LiveModel(manifest, tokenizers, Bridge(connect, loop), Limits.of(manifest, settings, 9), "cpu", 4))
    server = RpcServer(settings, Models(live))
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield World(server, Models(live), port, {}, channel, CarryoverStub(channel))
        finally:
            await server.stop(linger_s=0)
            for engine in engines:
                await asyncio.to_thread(engine.close)
                engine.check_integrity()
                assert not engine.failed


async def stepped(world: World, ids: list[int]) -> list[pb.StepOutput]:
    """Step a session of its own over some ids, one message each."""
    call: Any = world.stub.Session()
    await call.write(message(1, open=pb.OpenSession(model=LM)))
    answer = await only(call)
    assert answer.WhichOneof("event") == "opened", answer
    session = answer.opened.session_id
    outputs: list[pb.StepOutput] = []
    for token in ids:
        step = pb.StepSession(session_id=session, token_ids=[token], num_top=3)
        await call.write(message(2, step=step))
        answer = await only(call)
        assert answer.WhichOneof("event") == "stepped", answer
        outputs += answer.stepped.outputs
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return outputs


@pytest.mark.slow
async def test_bad_messages_do_not_disturb_real_engines(tmp_path: Path) -> None:
    draw = random.Random(21)
    methods = sorted(SEEDS)
    ids = [draw.randrange(7) for _ in range(200)]
    async with serving_for_real(tmp_path) as world:
        alone, expected = await stepped(world, ids), await drained(world.stub.Transduce(SEEDS["Transduce"]))
        assert len({tuple(output.token_ids) for output in alone}) > 5
        company = asyncio.create_task(stepped(world, ids))
        seen: Counter[grpc.StatusCode] = Counter()
        for _ in range(40):
            batch = [draw.choice(methods) for _ in range(25)]
            sent = asyncio.gather(*(send(world, method, garbage(draw, method)) for method in batch))
            assert await drained(world.stub.Transduce(SEEDS["Transduce"])) == expected
            seen.update(await sent)
        assert await company == alone
        assert set(seen) <= FAIR, seen
        assert seen[grpc.StatusCode.OK] > 50
        for name in ("g2p", "lm"):
            load = (await world.stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name=name)))).load
            assert (load.sessions, load.free_slots) == (0, load.num_slots)


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
