"""Where a session is to start from, if not from the model's initial state."""

import numpy as np

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import StateTensors
from service.errors import InvalidInput
from service.models import LiveModel, Models
from service.rpc.portable import check_tensor, origin, unpack
from service.rpc.reference import find_model

STATE = "open.exported_state"
TENSORS = "open.initial_state.tensors"


def find_start(models: Models, request: pb.OpenSession) -> tuple[LiveModel, StateTensors | None, int]:
    """Find the model of a session that is being opened, where it starts from, and the steps behind that.

    Raises:
        ModelNotFound: The model, or that version of it, is not served.
        InvalidInput: It cannot be stepped, or the state that is given is not one of its states.
    """
    start = request.WhichOneof("start")
    if start == "exported_state" and not request.HasField("model"):
        named = origin(STATE, request.exported_state)
        model = models.find(named.model, named.version, STATE)
    else:
        model = find_model(models, request.model, "open.model")
    if not model.supports_sessions:
        why = "which cannot" if model.manifest.imported is None else "an imported one: see the Open Inference Protocol"
        raise InvalidInput("open.model", "a model that can be stepped in tokens", f"{model.manifest.name!r}, {why}")
    if start == "exported_state":
        return model, *_imported(model, request.exported_state)
    if start == "initial_state":
        return model, _given(model, request.initial_state), 0
    return model, None, 0


def _imported(model: LiveModel, data: bytes) -> tuple[StateTensors, int]:
    named, manifest = origin(STATE, data), model.manifest
    if (named.model, named.version) != (manifest.name, manifest.version):
        expected = f"a state of model {manifest.name!r} version {manifest.version}"
        raise InvalidInput(STATE, expected, f"one of {named.model[:40]!r} version {named.version}")
    return unpack(STATE, data, manifest), named.num_steps


def _given(model: LiveModel, state: pb.InitialState) -> StateTensors:
    specs = {spec.name: spec for spec in model.manifest.states}
    tensors = {}
    for i, given in enumerate(state.tensors):
        field, spec = f"{TENSORS}[{i}]", specs.get(given.name)
        if spec is None or given.name in tensors:
            expected = f"one of {', '.join(specs)}, each at most once"
            raise InvalidInput(f"{field}.name", expected, repr(given.name[:40]))
        size = int(np.prod(spec.shape, dtype=np.int64))
        if len(given.values) != size:
            raise InvalidInput(
                f"{field}.values", f"{size} values, the shape being {list(spec.shape)}", str(len(given.values))
            )
        tensor = np.array(given.values, np.float32).astype(spec.dtype).reshape(spec.shape)
        check_tensor(f"{field}.values", tensor, spec)
        tensors[given.name] = tensor
    return tensors
