"""What callers see of the protocol while the service starts and stops, and what they find out by asking."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.inference import grpc_service_pb2 as pb
from service.oip.failures import STOPPING
from tests.service.rpc.oip.world import World, ended, floats, run, serving, step
from tests.service.rpc.world import wait_until


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


async def stopping(world: World) -> "asyncio.Task[bool]":
    """Begin to stop the server, and wait until it drains."""
    task = asyncio.create_task(world.server.stop(linger_s=0))
    await wait_until(lambda: world.server.draining)
    return task


async def test_a_sequence_goes_on_while_the_service_drains_and_a_new_one_is_refused() -> None:
    async with serving(drain_timeout_s=10) as world:
        infer = world.stub.ModelInfer
        await infer(step(1, 1, start=True))
        stop = await stopping(world)
        assert await refusal(infer(step(2, 1, start=True))) == (grpc.StatusCode.UNAVAILABLE, STOPPING)
        assert await refusal(infer(run([1, 2, 3]))) == (grpc.StatusCode.UNAVAILABLE, STOPPING)
        assert (await world.stub.ServerLive(pb.ServerLiveRequest())).live
        assert not (await world.stub.ServerReady(pb.ServerReadyRequest())).ready
        assert floats(await infer(step(1, 1))) == [2]
        assert not stop.done()
        assert floats(await infer(step(1, 1, end=True))) == [3]
        assert await stop is True


async def test_a_stream_goes_on_until_the_last_sequence_is_over() -> None:
    async with serving(drain_timeout_s=10) as world:
        call = world.stub.ModelStreamInfer()
        await call.write(step(1, 1, start=True))
        await call.read()
        stop = await stopping(world)
        await call.write(step(2, 1, id="new", start=True))
        assert (await call.read()).error_message == STOPPING
        await call.write(step(1, 1, end=True))
        assert floats((await call.read()).infer_response) == [2]
        assert (await ended(call))[0] is grpc.StatusCode.UNAVAILABLE  # nothing can come of it any more
        assert await stop is True


async def test_a_sequence_that_does_not_end_is_waited_for_within_the_bound() -> None:
    async with serving(drain_timeout_s=0.2) as world:
        await world.stub.ModelInfer(step(1, 1, start=True))
        async with asyncio.timeout(60):
            assert await world.server.stop(linger_s=0) is False


async def test_what_is_in_flight_is_told_when_the_bound_is_reached() -> None:
    async with serving(drain_timeout_s=0.2) as world:
        world.same.hold = True
        unary, stream = world.stub.ModelInfer(run([1, 2, 3])), world.stub.ModelStreamInfer()
        await stream.write(run([1, 2, 3]))
        await wait_until(lambda: len(world.same.held) == 2)
        stop = await stopping(world)
        assert (await refusal(unary))[0] is grpc.StatusCode.UNAVAILABLE
        assert (await ended(stream))[0] is grpc.StatusCode.UNAVAILABLE
        assert await stop is False
        assert not world.same.held


async def test_nothing_is_admitted_once_the_drain_is_over() -> None:
    async with serving(drain_timeout_s=60) as world:
        stop = asyncio.create_task(world.server.stop(linger_s=60))
        await wait_until(lambda: world.server.draining)

        async def is_refused() -> bool:
            try:
                await world.stub.ServerLive(pb.ServerLiveRequest())
            except grpc.aio.AioRpcError as error:
                return (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, STOPPING)
            return False

        async with asyncio.timeout(60):
            while not await is_refused():
                await asyncio.sleep(0)
        assert not stop.done()  # the connections are still open
        stop.cancel()


async def test_health_tells_of_the_service() -> None:
    async with serving() as world, grpc.aio.insecure_channel(world.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService", "carryover.v1.Carryover", "sums"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_both_services_and_describes_their_messages() -> None:
    async with serving() as world, grpc.aio.insecure_channel(world.address) as channel:
        make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
        call = make_stub(channel).ServerReflectionInfo()

        async def ask(**question: Any) -> Any:
            await call.write(reflection_pb2.ServerReflectionRequest(**question))
            return await call.read()

        def files(answer: Any) -> dict[str, descriptor_pb2.FileDescriptorProto]:
            found = map(
                descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto
            )
            return {file.name: file for file in found}

        listed = {service.name for service in (await ask(list_services="")).list_services_response.service}
        assert {"inference.GRPCInferenceService", "carryover.v1.Carryover", "grpc.health.v1.Health"} <= listed
        ours = files(await ask(file_containing_symbol="inference.GRPCInferenceService"))
        assert set(ours) == {"protos/inference/grpc_service.proto", "protos/inference/model_config.proto"}
        (service,) = ours["protos/inference/grpc_service.proto"].service
        assert len(service.method) == 15
        assert files(await ask(file_containing_symbol="inference.ModelInferRequest")) == ours
        assert "protos/carryover/v1/carryover.proto" in files(
            await ask(file_containing_symbol="carryover.v1.Carryover")
        )
        assert "protos/inference/model_config.proto" in files(
            await ask(file_by_filename="protos/inference/model_config.proto")
        )
        assert (await ask(file_containing_symbol="inference.Nothing")).error_response.error_code == 5
        extensions = await ask(all_extension_numbers_of_type="inference.ModelInferRequest")
        assert extensions.all_extension_numbers_response.base_type_name == "inference.ModelInferRequest"
