"""The ListModels and GetModel calls."""

from dataclasses import asdict

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import EngineStats
from service.models import LiveModel, Models
from service.rpc.boundary import Context
from service.rpc.reference import find_model, reference

_TASK = {
    "tagger": pb.TASK_TAGGER,
    "encoder_decoder": pb.TASK_ENCODER_DECODER,
    "language_model": pb.TASK_LANGUAGE_MODEL,
    "tensors": pb.TASK_TENSORS,
}
_REFUSAL = {"bundle": pb.REFUSAL_REASON_BUNDLE, "graphs": pb.REFUSAL_REASON_GRAPHS}
_PRECISION = {"fp32": pb.PRECISION_FP32, "fp16": pb.PRECISION_FP16, "int8": pb.PRECISION_INT8}


async def list_models(models: Models, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
    """Tell what is served, by name and version, and what was refused."""
    return pb.ListModelsResponse(
        models=[_describe(model) for model in models],
        refused=[
            pb.RefusedModel(model=pb.ModelRef(name=bundle.name, version=bundle.version), reason=_REFUSAL[bundle.kind])
            for bundle in models.refused
        ],
    )


async def get_model(models: Models, request: pb.GetModelRequest, context: Context) -> pb.Model:
    """Describe one model."""
    return _describe(find_model(models, request.model))


def _load(stats: EngineStats) -> pb.ModelLoad:
    return pb.ModelLoad(**asdict(stats))


def _describe(model: LiveModel) -> pb.Model:
    manifest = model.manifest
    return pb.Model(
        ref=reference(model),
        task=_TASK[manifest.task],
        supports_sessions=model.supports_sessions,
        precision=_PRECISION[manifest.precision],
        provider=model.provider,
        vocabulary_sizes={role: len(tokenizer.vocabulary) for role, tokenizer in model.tokenizers.items()},
        metrics=manifest.metrics,
        limits=pb.ModelLimits(**asdict(model.limits)),
        state_bytes=model.state_bytes,
        warnings=model.warnings,
        load=_load(model.bridge.engine.stats()),
        batch_invariant=model.batch_invariant,
        states=[pb.StateInfo(name=state.name, shape=state.shape) for state in manifest.states],
        max_batch_rows=model.max_batch_rows,
    )
