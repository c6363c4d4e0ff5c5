"""Registered regions over the wire."""

import struct
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.inference import grpc_service_pb2 as pb
from service.engine.interface import RunTensors
from tests.service.rpc.oip.world import World, serving
from tests.service.rpc.world import wait_until

INPUT = struct.pack("<3f", 1, 2, 3)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "theirs").write_bytes(b"\0" * 8 + INPUT + b"\0" * 100)
    async with serving(tmp_path) as running:
        yield running


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


async def register(world: World, name: str = "r", offset: int = 0, byte_size: int = 120) -> None:
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key="/theirs", offset=offset, byte_size=byte_size)
    await world.stub.SystemSharedMemoryRegister(request)


def place(field: Any, region: str, offset: int, byte_size: int) -> None:
    field.parameters["shared_memory_region"].string_param = region
    field.parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset:
        field.parameters["shared_memory_offset"].int64_param = offset


def request(input_offset: int = 8, output_offset: int = 32, room: int = 12) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="same", id="i")
    place(message.inputs.add(name="x", datatype="FP32", shape=[1, 3]), "r", input_offset, 12)
    place(message.outputs.add(name="y"), "r", output_offset, room)
    return message


async def test_tensors_come_from_and_go_to_a_region(world: World, tmp_path: Path) -> None:
    await register(world)
    response = await world.stub.ModelInfer(request())
    assert (tmp_path / "theirs").read_bytes()[32:44] == INPUT
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [1, 3])
    assert list(response.raw_output_contents) == [b""]
    assert output.parameters["shared_memory_region"].string_param == "r"
    assert output.parameters["shared_memory_offset"].int64_param == 32
    assert output.parameters["shared_memory_byte_size"].int64_param == 12


async def test_the_engine_gets_the_memory_itself(world: World, tmp_path: Path) -> None:
    await register(world)
    world.same.hold = True
    call = world.stub.ModelInfer(request())
    await wait_until(lambda: world.same.held)
    (run,) = world.same.held.values()
    assert isinstance(run, RunTensors)
    await world.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="r"))
    with (tmp_path / "theirs").open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<f", 9))
    assert run.inputs["x"].tolist() == [[9, 2, 3]]
    world.same.release_all()
    await call
    assert (tmp_path / "theirs").read_bytes()[32:44] == struct.pack("<3f", 9, 2, 3)


async def test_raw_contents_skip_inputs_in_shared_memory(world: World) -> None:
    await register(world)
    message = pb.ModelInferRequest(model_name="sums")
    message.parameters["sequence_id"].int64_param = 1
    message.parameters["sequence_start"].bool_param = True
    place(message.inputs.add(name="values", datatype="FP32", shape=[1, 3]), "r", 8, 12)
    message.inputs.add(name="scale", datatype="FP32", shape=[1])
    message.raw_input_contents.append(struct.pack("<f", 10))
    response = await world.stub.ModelInfer(message)
    assert response.raw_output_contents[0] == struct.pack("<f", 60)


async def test_an_output_without_room_fails_its_request_alone(world: World) -> None:
    await register(world)
    code, message = await refusal(world.stub.ModelInfer(request(room=8)))
    assert code is grpc.StatusCode.INTERNAL
    assert "for output 'y' (8 bytes) should be at least 12 bytes to hold the results" in message
    assert list((await world.stub.ModelInfer(request())).raw_output_contents) == [b""]


async def test_contents_besides_shared_memory_are_refused(world: World) -> None:
    await register(world)
    message = request()
    message.inputs[0].contents.fp32_contents.append(1)
    assert await refusal(world.stub.ModelInfer(message)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "unexpected 'content' provided when using shared memory for input tensor 'x' for model 'same'",
    )


async def test_classes_do_not_go_to_shared_memory(world: World) -> None:
    await register(world)
    message = request()
    message.outputs[0].parameters["classification"].int64_param = 1
    _, text = await refusal(world.stub.ModelInfer(message))
    assert text == "output can't set both 'shared_memory_region' and 'classification'"


async def test_status_register_and_unregister(world: World) -> None:
    status, register_call = world.stub.SystemSharedMemoryStatus, world.stub.SystemSharedMemoryRegister
    await register(world)
    await register(world, "s", 8, 12)
    regions = (await status(pb.SystemSharedMemoryStatusRequest())).regions
    assert set(regions) == {"r", "s"}
    got = regions["s"]
    assert (got.name, got.key, got.offset, got.byte_size) == ("s", "/theirs", 8, 12)
    assert set((await status(pb.SystemSharedMemoryStatusRequest(name="r"))).regions) == {"r"}
    again = pb.SystemSharedMemoryRegisterRequest(name="r", key="/theirs", byte_size=1)
    assert (await refusal(register_call(again)))[0] is grpc.StatusCode.ALREADY_EXISTS
    escape = pb.SystemSharedMemoryRegisterRequest(name="t", key="/../theirs", byte_size=1)
    assert (await refusal(register_call(escape)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    large = pb.SystemSharedMemoryRegisterRequest(name="t", key="/theirs", offset=2**64 - 1, byte_size=2**64 - 1)
    assert (await refusal(register_call(large)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    await world.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest())
    assert not (await status(pb.SystemSharedMemoryStatusRequest())).regions
    code, _ = await refusal(status(pb.SystemSharedMemoryStatusRequest(name="r")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_without_the_setting_all_of_it_is_unimplemented() -> None:
    async with serving() as world:
        for call in (
            world.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()),
            world.stub.SystemSharedMemoryRegister(pb.SystemSharedMemoryRegisterRequest(name="r", key="/x")),
            world.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest()),
            world.stub.ModelInfer(request()),
        ):
            code, message = await refusal(call)
            assert code is grpc.StatusCode.UNIMPLEMENTED
            assert message.startswith("Client shared memory is disabled.")
