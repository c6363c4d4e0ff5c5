"""The calls that tell, and those that change what is served."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from protos.inference import grpc_service_pb2 as pb
from tests.service.oip.world import Entry
from tests.service.rpc.oip.world import World, run, serving, step
from tests.service.rpc.world import wait_until


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving() as running:
        yield running


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), str(caught.value.details())


def fields(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


async def test_live_and_ready(world: World) -> None:
    assert (await world.stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await world.stub.ServerReady(pb.ServerReadyRequest())).ready
    ready = world.stub.ModelReady
    assert (await ready(pb.ModelReadyRequest(name="sums"))).ready
    assert (await ready(pb.ModelReadyRequest(name="sums", version="1"))).ready
    assert not (await ready(pb.ModelReadyRequest(name="sums", version="2"))).ready
    assert not (await ready(pb.ModelReadyRequest(name="nobody"))).ready


async def test_a_full_service_is_still_live_and_ready() -> None:
    async with serving(max_calls=2) as world:
        stub = world.stub
        world.same.hold = True
        waiting = [asyncio.ensure_future(stub.ModelInfer(run([1, 2, 3]))) for _ in range(2)]
        await wait_until(lambda: len(world.same.held) == 2)
        for call in (stub.ServerMetadata(pb.ServerMetadataRequest()), stub.ModelInfer(run([1, 2, 3]))):
            code, message = await refusal(call)
            assert code is grpc.StatusCode.UNAVAILABLE and "expected at most 2 calls at a time" in message
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="sums"))).ready
        world.same.release_all()
        await asyncio.gather(*waiting)


async def test_metadata_is_what_the_core_says(world: World) -> None:
    core = world.core.core
    assert fields(await world.stub.ServerMetadata(pb.ServerMetadataRequest())) == core.server_metadata()
    told = await world.stub.ModelMetadata(pb.ModelMetadataRequest(name="sums"))
    assert (told.name, list(told.versions), told.platform) == ("sums", ["1"], "onnxruntime_onnx")
    assert [(field.name, field.datatype, list(field.shape)) for field in told.inputs] == [
        ("values", "FP32", [-1, -1]),
        ("scale", "FP32", [-1, 1]),
    ]
    assert [field.name for field in told.outputs] == ["total", "count"]


async def test_the_configuration_says_how_requests_come_together(world: World) -> None:
    sums = (await world.stub.ModelConfig(pb.ModelConfigRequest(name="sums"))).config
    assert sums.WhichOneof("scheduling_choice") == "sequence_batching"
    assert sums.sequence_batching.max_sequence_idle_microseconds == 7_500_000
    assert [(state.input_name, state.output_name) for state in sums.sequence_batching.state] == [
        ("total_in", "total_out"),
        ("count_in", "count_out"),
    ]
    values = sums.input[0]
    assert (values.name, values.data_type, list(values.dims)) == ("values", 11, [-1])
    same = (await world.stub.ModelConfig(pb.ModelConfigRequest(name="same"))).config
    assert same.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert same.max_batch_size == 4


async def test_unknown_models_are_not_found(world: World) -> None:
    stub = world.stub
    for call in (
        stub.ModelMetadata(pb.ModelMetadataRequest(name="nobody")),
        stub.ModelConfig(pb.ModelConfigRequest(name="nobody")),
        stub.ModelStatistics(pb.ModelStatisticsRequest(name="nobody")),
    ):
        code, message = await refusal(call)
        assert code is grpc.StatusCode.NOT_FOUND
        assert message.startswith("Request for unknown model: 'nobody' is not found")


async def test_statistics_count_what_was_asked(world: World) -> None:
    for i in range(3):
        await world.stub.ModelInfer(step(1, 1, start=i == 0))
    await world.stub.ModelInfer(run([1, 2, 3]))
    stats = (await world.stub.ModelStatistics(pb.ModelStatisticsRequest())).model_stats
    assert {model.name: model.inference_stats.success.count for model in stats} == {"same": 1, "sums": 3}
    (sums,) = (await world.stub.ModelStatistics(pb.ModelStatisticsRequest(name="sums", version="1"))).model_stats
    assert sums.inference_count == 3
    assert sums.execution_count == 3  # as the fake engine counts: two runs of 1 and one of 4
    assert {batch.batch_size: batch.compute_infer.count for batch in sums.batch_stats} == {1: 2, 4: 1}


async def test_the_index_lists_what_there_is(world: World) -> None:
    world.core.control.others = [Entry("broken", 2, "UNAVAILABLE", "its graphs do not load")]
    index = (await world.stub.RepositoryIndex(pb.RepositoryIndexRequest())).models
    assert [(model.name, model.version, model.state, model.reason) for model in index] == [
        ("broken", "2", "UNAVAILABLE", "its graphs do not load"),
        ("same", "1", "READY", ""),
        ("sums", "1", "READY", ""),
    ]
    ready = (await world.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))).models
    assert [model.name for model in ready] == ["same", "sums"]


async def test_loading_and_unloading_go_to_the_repository_with_the_token(world: World) -> None:
    load, unload = world.stub.RepositoryModelLoad, world.stub.RepositoryModelUnload
    await load(pb.RepositoryModelLoadRequest(model_name="new"), metadata=(("authorization", "Bearer secret"),))
    await load(pb.RepositoryModelLoadRequest(model_name="new"), metadata=(("authorization", "bearer  other"),))
    await load(pb.RepositoryModelLoadRequest(model_name="new"), metadata=(("authorization", "Basic secret"),))
    await unload(pb.RepositoryModelUnloadRequest(model_name="old"))
    assert world.core.control.calls == [
        ("load", "new", "secret"),
        ("load", "new", "other"),
        ("load", "new", None),
        ("unload", "old", None),
    ]


async def test_files_are_not_loaded_over_the_wire(world: World) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="new")
    request.parameters["file:1/model.onnx"].bytes_param = b"onnx"
    code, message = await refusal(world.stub.RepositoryModelLoad(request))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "file:1/model.onnx" in message
    empty = pb.RepositoryModelLoadRequest(model_name="new")
    empty.parameters["config"].Clear()
    assert (await refusal(world.stub.RepositoryModelLoad(empty)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert world.core.control.calls == []


async def test_there_is_one_repository(world: World) -> None:
    stub = world.stub
    for call in (
        stub.RepositoryIndex(pb.RepositoryIndexRequest(repository_name="r")),
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(repository_name="r", model_name="m")),
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(repository_name="r", model_name="m")),
    ):
        assert await refusal(call) == (
            grpc.StatusCode.UNIMPLEMENTED,
            "'repository_name' specification is not supported",
        )
