"""Which models are told of: every version that is served."""

from dataclasses import replace

import grpc

from export.manifest import ImportedSpec
from protos.carryover.v1 import carryover_pb2 as pb
from service.models import LiveModel
from tests.service.rpc.refusal import refusal
from tests.service.rpc.world import World


def changed(model: LiveModel, **fields: object) -> LiveModel:
    return replace(model, manifest=model.manifest.model_copy(update=fields))


async def listed(world: World) -> list[tuple[str, int]]:
    models = (await world.stub.ListModels(pb.ListModelsRequest())).models
    return [(model.ref.name, model.ref.version) for model in models]


async def test_each_version_that_is_served_is_listed_and_found(world: World) -> None:
    newest = world.models.by_name["lm"]
    oldest = changed(newest, version=1)
    world.models.put(oldest)
    world.models.put(changed(newest, version=2))
    others = [("bitagger", 3), ("g2p", 3), ("tagger", 3)]
    assert await listed(world) == sorted([*others, ("lm", 1), ("lm", 2), ("lm", 3)])
    for asked, found in ((0, 3), (1, 1), (2, 2), (3, 3)):
        request = pb.GetModelRequest(model=pb.ModelRef(name="lm", version=asked))
        assert (await world.stub.GetModel(request)).ref.version == found
    got = await refusal(world.stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name="lm", version=4))))
    assert got.code is grpc.StatusCode.NOT_FOUND
    assert got.message == "model.version: expected 1, 2, 3, a served version of 'lm', got 4"
    world.models.remove(newest)
    assert (await world.stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name="lm")))).ref.version == 2
    world.models.remove(world.models.by_name["lm"])
    world.models.remove(oldest)
    assert await listed(world) == others
    got = await refusal(world.stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name="lm"))))
    assert got.message == "model.name: expected a model that is served (bitagger, g2p, tagger), got 'lm'"


async def test_an_imported_model_is_told_of_and_has_no_sessions_of_tokens(world: World) -> None:
    imported = ImportedSpec(original="original.onnx")
    world.models.put(changed(world.models.by_name["lm"], name="vad", task="tensors", imported=imported))
    told = await world.stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name="vad")))
    assert (told.task, told.supports_sessions) == (pb.TASK_TENSORS, False)


async def test_warnings_of_a_model_are_told(world: World) -> None:
    said = ("runs on the CPU", "step: state:total differs in batches of 2, 3 by up to 1.9e-05")
    world.models.put(replace(world.models.by_name["lm"], warnings=said))
    assert (await world.stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name="lm")))).warnings == list(said)
    told = (await world.stub.ListModels(pb.ListModelsRequest())).models
    assert [tuple(model.warnings) for model in told if model.ref.name == "lm"] == [said]
