"""Health, reflection, cancelling, deadlines and the orderly end."""

import asyncio
import re
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import Decode
from service.rpc.server import SERVICE, RpcServer
from service.settings import Settings
from tests.service.rpc.fake_engine import FakeEngine
from tests.service.rpc.refusal import drained, refusal
from tests.service.rpc.streams import message, number, only, opening
from tests.service.rpc.world import World, serving, wait_until

TRANSDUCE = pb.TransduceRequest(model=pb.ModelRef(name="g2p"), source="abc")
TAG = pb.TagRequest(model=pb.ModelRef(name="tagger"), sequences=[pb.TokenSequence(tokens=["the"])])
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health(world: World, service: str = "") -> Any:
    stub: Any = health_pb2_grpc.HealthStub(world.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


@pytest.mark.parametrize("service", ["", "carryover.v1.Carryover", "lm", "g2p", "tagger"])
async def test_the_server_and_each_model_are_healthy(world: World, service: str) -> None:
    assert await health(world, service) == SERVING


async def test_a_model_that_is_unloaded_is_not_healthy_until_it_is_loaded_again(world: World) -> None:
    model = world.models.by_name["lm"]
    world.models.remove(model)
    await world.server.tell_health()
    assert [await health(world, name) for name in ("lm", "g2p", "")] == [NOT_SERVING, SERVING, SERVING]
    world.models.put(model)
    await world.server.tell_health()
    assert await health(world, "lm") == SERVING


async def test_the_health_of_what_is_not_there_is_not_found(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(world, "nope")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_describes_every_method(world: World) -> None:
    channel: Any = world.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await call.read()).list_services_response.service}
    assert {"carryover.v1.Carryover", "grpc.health.v1.Health"} <= names
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="carryover.v1.Carryover"))
    files = (await call.read()).file_descriptor_response.file_descriptor_proto
    services = [service for data in files for service in descriptor_pb2.FileDescriptorProto.FromString(data).service]
    assert [m.name for s in services for m in s.method] == [method.name for method in SERVICE.methods]
    await call.done_writing()


async def one_held(engine: FakeEngine) -> Decode:
    await wait_until(lambda: engine.held)
    (request,) = engine.held.values()
    assert isinstance(request, Decode)
    return request


async def test_a_cancelled_call_is_cancelled_in_the_engine(world: World) -> None:
    engine = world.engines["g2p"]
    engine.hold = True
    call = world.stub.Transduce(TRANSDUCE)
    reading = asyncio.create_task(call.read())
    request = await one_held(engine)
    call.cancel()
    await wait_until(lambda: engine.cancelled == [request.id])
    with pytest.raises(asyncio.CancelledError):
        await reading
    await wait_until(lambda: world.server.in_flight == 0)


async def test_a_lost_connection_cancels_all_its_calls(world: World) -> None:
    engine = world.engines["tagger"]
    engine.hold = True
    async with grpc.aio.insecure_channel(world.address) as channel:
        call: Any = channel.unary_unary("/carryover.v1.Carryover/Tag")
        waiting = [asyncio.ensure_future(call(TAG.SerializeToString())) for _ in range(5)]
        await wait_until(lambda: len(engine.held) == 5)
    await wait_until(lambda: len(engine.cancelled) == 5)
    assert all(isinstance(e, BaseException) for e in await asyncio.gather(*waiting, return_exceptions=True))
    assert world.models.by_name["tagger"].bridge.unanswered == 0


async def test_a_deadline_reaches_the_engine_and_ends_the_call(world: World) -> None:
    engine = world.engines["g2p"]
    engine.hold = True
    timeout_s = 0.5  # enough to reach the engine
    before = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await drained(world.stub.Transduce(TRANSDUCE, timeout=timeout_s))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (request,) = engine.submitted
    assert request.deadline_s is not None
    assert before < request.deadline_s <= time.monotonic() + timeout_s
    await wait_until(lambda: engine.cancelled == [request.id])


async def test_a_caller_that_reads_slowly_loses_nothing(world: World) -> None:
    request = pb.GenerateRequest(model=pb.ModelRef(name="lm"), max_tokens=512)
    slow = aiter(world.stub.Generate(request))
    first = await anext(slow)
    assert len(await drained(world.stub.Generate(request))) == 513  # another caller is not held up
    assert len([first, *await drained(slow)]) == 513


async def test_draining_says_not_serving_refuses_the_new_and_finishes_the_running() -> None:
    async with serving(drain_timeout_s=60) as world:
        engine = world.engines["g2p"]
        engine.hold = True
        running = asyncio.create_task(drained(world.stub.Transduce(TRANSDUCE)))
        request = await one_held(engine)
        stopping = asyncio.create_task(world.server.stop())
        while await health(world) == SERVING:
            await asyncio.sleep(0)
        assert await health(world, "lm") == NOT_SERVING
        got = await refusal(world.stub.Tag(TAG))
        assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert not stopping.done()
        engine.release(request.id)
        assert (await running)[-1].result.hypotheses[0].text == "the cat sat"
        assert await stopping is True


async def test_what_takes_longer_than_the_drain_is_told_so() -> None:
    async with serving(drain_timeout_s=0.05) as world:
        engine = world.engines["g2p"]
        engine.hold = True
        running = asyncio.create_task(refusal(drained(world.stub.Transduce(TRANSDUCE))))
        request = await one_held(engine)
        assert await world.server.stop() is False
        got = await running
        assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert engine.cancelled == [request.id]


async def test_draining_lets_sessions_step_and_close_and_ends_empty_streams() -> None:
    async with serving(drain_timeout_s=60) as world:
        empty: Any = world.stub.Session()
        await empty.write(message(1))
        assert (await only(empty)).error.reason == "INVALID_INPUT"
        busy: Any = world.stub.Session()
        await busy.write(message(1, open=opening("lm")))
        session = (await only(busy)).opened.session_id
        stopping = asyncio.create_task(world.server.stop())
        assert (await refusal(empty.read())).reason == "SHUTTING_DOWN"
        await busy.write(message(2, open=opening("lm")))
        assert (await only(busy)).error.reason == "SHUTTING_DOWN"
        step = pb.StepSession(session_id=session, token_ids=[4])
        await busy.write(message(3, step=step))
        assert (await only(busy)).stepped.num_steps == 1
        assert not stopping.done()
        await busy.write(message(4, close=pb.CloseSession(session_id=session)))
        assert (await only(busy)).closed.num_steps == 1
        assert (await refusal(busy.read())).reason == "SHUTTING_DOWN"
        assert await stopping is True


async def test_draining_ends_a_stream_whose_last_session_expires() -> None:
    async with serving(drain_timeout_s=60) as world:
        stream: Any = world.stub.Session()
        await stream.write(message(1, open=opening("lm")))
        session = (await only(stream)).opened.session_id
        stopping = asyncio.create_task(world.server.stop())
        await wait_until(lambda: world.server.draining)
        world.engines["lm"].end(number(session), expired=True)
        assert (await only(stream)).expired.session_id == session
        assert await stopping is True
        assert (await refusal(stream.read())).reason == "SHUTTING_DOWN"


async def test_draining_does_not_wait_for_sessions_that_nobody_steps() -> None:
    async with serving(drain_timeout_s=100, drain_idle_s=0.2) as world:
        idle: Any = world.stub.Session()
        await idle.write(message(1, open=opening("lm")))
        await only(idle)
        busy: Any = world.stub.Session()
        await busy.write(message(1, open=opening("lm")))
        session = (await only(busy)).opened.session_id
        engine = world.engines["lm"]
        engine.hold = True
        step = pb.StepSession(session_id=session, token_ids=[4])
        await busy.write(message(2, step=step))
        await wait_until(lambda: len(engine.held) == 1)
        before = time.monotonic()
        stopping = asyncio.create_task(world.server.stop())
        assert (await refusal(idle.read())).reason == "SHUTTING_DOWN"
        assert 0.15 < time.monotonic() - before < 90  # and not when the drain is over
        assert not stopping.done()  # what is in flight is waited for, however long it takes
        engine.hold = False
        engine.release(next(iter(engine.held)))
        assert (await only(busy)).stepped.num_steps == 1
        num_steps, asked_s, began_s = 1, before, time.monotonic()
        while time.monotonic() < began_s + 0.5:  # one soon after the other, for longer than an idle one has
            num_steps, previous_s, asked_s = num_steps + 1, asked_s, time.monotonic()
            try:
                await busy.write(message(num_steps + 1, step=step))
                assert (await only(busy)).stepped.num_steps == num_steps
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # as it should be where the machine is that slow
                assert time.monotonic() - previous_s >= 0.2
                break
        assert (await refusal(busy.read())).reason == "SHUTTING_DOWN"
        assert await stopping is True
        assert time.monotonic() - before < 90


async def test_a_watch_of_the_health_does_not_hold_up_the_end() -> None:
    async with serving(drain_timeout_s=60) as world:
        stub: Any = health_pb2_grpc.HealthStub(world.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        assert await world.server.stop() is True
        assert (await watch.read()).status == NOT_SERVING


async def test_one_call_too_many_is_refused_at_once() -> None:
    async with serving(max_calls=2, drain_timeout_s=0.05) as world:
        engine = world.engines["g2p"]
        engine.hold = True
        running = [asyncio.create_task(drained(world.stub.Transduce(TRANSDUCE))) for _ in range(2)]
        await wait_until(lambda: len(engine.held) == 2)
        got = await refusal(world.stub.Tag(TAG))
        assert (got.code, got.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert "at most 2 calls" in got.message
        engine.release_all()
        await asyncio.gather(*running)
        assert len((await world.stub.Tag(TAG)).sequences) == 1


async def test_it_listens_on_ipv6_too() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("needs IPv6 on loopback")
    async with serving(host="::1") as world, grpc.aio.insecure_channel(f"[::1]:{world.port}") as channel:
        call: Any = channel.unary_unary("/carryover.v1.Carryover/Tag")
        assert pb.TagResponse.FromString(await call(TAG.SerializeToString())).sequences


async def test_tls_files_that_are_none_are_an_error(tmp_path: Path, world: World) -> None:
    for content, says in ((None, "No such file"), (b"no pem", "PEM files for TLS")):
        path = tmp_path / "file.pem"
        if content is not None:
            path.write_bytes(content)
        settings = Settings.model_validate({"port": 0, "tls_certificate": path, "tls_private_key": path})
        with pytest.raises(OSError, match=says):
            await RpcServer(settings, world.models).start()


async def test_a_port_in_use_is_an_error(world: World) -> None:
    second = RpcServer(Settings.model_validate({"port": world.port}), world.models)
    expected = f"127.0.0.1:{world.port}: expected an address to listen on, got: Address already in use"
    with pytest.raises(OSError, match=f"^{re.escape(expected)}$"):
        await second.start()
