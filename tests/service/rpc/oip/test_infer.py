"""ModelInfer."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest

from protos.inference import grpc_service_pb2 as pb
from service.engine.interface import RunTensors, StepTensors
from service.errors import InternalFailure, Overloaded
from service.rpc.boundary import ABORT_TIMEOUT_S
from tests.service.rpc.oip.world import World, floats, run, serving, step
from tests.service.rpc.world import wait_until

CALLER = (("carryover-caller", "a caller of this test"),)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving() as running:
        yield running


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


async def test_outputs_are_raw_and_the_request_is_named(world: World) -> None:
    response = await world.stub.ModelInfer(run([1.5, -2, 3], id="seven"))
    assert (response.model_name, response.model_version, response.id) == ("same", "1", "seven")
    ((name, datatype, shape),) = [(output.name, output.datatype, list(output.shape)) for output in response.outputs]
    assert (name, datatype, shape) == ("y", "FP32", [1, 3])
    assert list(response.raw_output_contents) == [struct.pack("<3f", 1.5, -2, 3)]
    assert not response.outputs[0].HasField("contents")


async def test_a_sequence_keeps_its_state_between_calls(world: World) -> None:
    infer = world.stub.ModelInfer
    assert floats(await infer(step(9, 1, 2, start=True))) == [3]
    assert floats(await infer(step("nine", 5, start=True))) == [5]
    assert floats(await infer(step(9, 4))) == [7]
    assert floats(await infer(step(9, 1, end=True))) == [8]
    assert await refusal(infer(step(9, 1))) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "inference request for sequence 9 to model 'sums' must specify the START flag on the first request of the "
        "sequence",
    )
    assert floats(await infer(step("nine", 1))) == [6]


async def test_only_what_is_asked_for_is_answered_in_that_order(world: World) -> None:
    request = step(3, 2, start=True, outputs=[{"name": "count_out"}, {"name": "total"}])
    response = await world.stub.ModelInfer(request)
    assert [output.name for output in response.outputs] == ["count_out", "total"]
    assert response.raw_output_contents[0] == struct.pack("<q", 1)
    assert floats(response, 1) == [2]


async def test_equal_ids_of_different_callers_are_different_sequences(world: World) -> None:
    infer = world.stub.ModelInfer
    assert floats(await infer(step(1, 1, start=True))) == [1]
    assert floats(await infer(step(1, 10, start=True), metadata=CALLER)) == [10]
    assert floats(await infer(step(1, 1))) == [2]
    assert floats(await infer(step(1, 1), metadata=CALLER)) == [11]


async def test_a_caller_without_a_proper_name_is_refused(world: World) -> None:
    code, message = await refusal(world.stub.ModelInfer(step(1, 1), metadata=(("carryover-caller", "short"),)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("carryover-caller: expected 16 to 128 printable ASCII characters")


async def test_errors_have_the_codes_and_texts_of_the_protocol(world: World) -> None:
    infer = world.stub.ModelInfer
    code, message = await refusal(infer(pb.ModelInferRequest(model_name="nobody")))
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'nobody' is not found")
    world.same.refusals = [Overloaded("the queue is full", 1.0)]
    code, message = await refusal(infer(run([1, 2, 3], id="seven")))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert message.startswith("[request id: seven] Exceeds maximum queue size")


async def test_an_unknown_model_is_told_before_what_is_wrong_with_the_request(world: World) -> None:
    malformed = run([1, 2, 3])
    malformed.raw_input_contents[0] = b"abc"
    code, message = await refusal(world.stub.ModelInfer(malformed))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message == "input byte size mismatch for input 'x' for model 'same'. Expected 12, got 3"
    malformed.model_version = "7"
    code, message = await refusal(world.stub.ModelInfer(malformed))
    assert code is grpc.StatusCode.NOT_FOUND
    assert message.startswith("Request for unknown model: 'same' version 7")


async def test_our_own_faults_are_told_without_their_text(world: World) -> None:
    world.same.hold = True
    call = world.stub.ModelInfer(run([1, 2, 3]))
    await wait_until(lambda: world.same.held)
    world.same.fail(next(iter(world.same.held)), InternalFailure("secret"))
    code, message = await refusal(call)
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in message


async def test_bytes_that_are_no_request_are_refused(world: World) -> None:
    async with grpc.aio.insecure_channel(world.address) as channel:
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        code, message = await refusal(call(b"\xff\xff\xff"))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "a serialised inference.ModelInferRequest" in message


async def test_what_is_not_offered_is_unimplemented(world: World) -> None:
    async with grpc.aio.insecure_channel(world.address) as channel:
        for method in ("TraceSetting", "LogSettings", "CudaSharedMemoryStatus"):
            call: Any = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            code, _ = await refusal(call(b""))
            assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_that_goes_away_takes_its_request_back(world: World) -> None:
    world.same.hold = True
    call = world.stub.ModelInfer(run([1, 2, 3]))
    await wait_until(lambda: world.same.held)
    (work,) = world.same.held
    call.cancel()
    await wait_until(lambda: world.same.cancelled)
    assert world.same.cancelled == [work]


async def test_a_cancelled_step_ends_its_sequence_and_frees_it(world: World) -> None:
    infer = world.stub.ModelInfer
    await infer(step(5, 1, start=True))
    world.sums.hold = True
    first, second = infer(step(5, 1)), infer(step(5, 1))
    await wait_until(lambda: len(world.sums.held) == 2)
    first.cancel()
    assert (await refusal(second))[0] is grpc.StatusCode.CANCELLED
    world.sums.hold = False
    world.sums.release_all()
    await wait_until(lambda: not world.sums.sessions)
    _, message = await refusal(infer(step(5, 1)))
    assert "must specify the START flag" in message
    assert floats(await infer(step(5, 1, start=True))) == [1]


async def test_the_deadline_of_the_call_is_that_of_the_work(world: World) -> None:
    await world.stub.ModelInfer(run([1, 2, 3]), timeout=30)
    (request,) = world.same.submitted
    assert isinstance(request, RunTensors)
    assert request.deadline_s is not None
    assert 0 < request.deadline_s - time.monotonic() < 31  # gRPC rounds up
    await world.stub.ModelInfer(step(1, 1, start=True))
    (stepped,) = [request for request in world.sums.submitted if isinstance(request, StepTensors)]
    assert stepped.deadline_s is None


async def test_a_deadline_that_passes_frees_the_work(world: World) -> None:
    world.same.hold = True
    code, _ = await refusal(world.stub.ModelInfer(run([1, 2, 3]), timeout=0.1))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(ABORT_TIMEOUT_S + 60):
        await wait_until(lambda: not world.server.in_flight)
    assert not world.same.held


async def test_more_calls_than_there_may_be_are_refused() -> None:
    async with serving(max_calls=2) as world:
        world.same.hold = True
        calls = [world.stub.ModelInfer(run([1, 2, 3])) for _ in range(2)]
        await wait_until(lambda: len(world.same.held) == 2)
        code, message = await refusal(world.stub.ModelInfer(run([1, 2, 3])))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "expected at most 2 calls at a time" in message
        world.same.release_all()
        await asyncio.gather(*calls)
