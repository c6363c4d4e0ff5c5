"""Which model a message names, and how answers name it."""

from export.manifest import Task
from protos.carryover.v1 import carryover_pb2 as pb
from service.models import LiveModel, Models


def reference(model: LiveModel) -> pb.ModelRef:
    """Name and concrete version, as answers tell them."""
    return pb.ModelRef(name=model.manifest.name, version=model.manifest.version)


def find_model(models: Models, ref: pb.ModelRef, field: str = "model") -> LiveModel:
    """Find the model that a message names; see `Models.find`."""
    return models.find(ref.name, ref.version, field)


def find_model_for(models: Models, task: Task, ref: pb.ModelRef) -> LiveModel:
    """Find the model that a message names and that must have a certain task; see `Models.find_for`."""
    return models.find_for(task, ref.name, ref.version)
