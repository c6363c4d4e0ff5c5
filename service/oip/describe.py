"""What the protocol tells of a server and its models, by the names of its fields."""

from collections.abc import Iterable

from service.oip.datatypes import DATATYPE, config_type
from service.oip.faces.face import Face, Port
from service.oip.inference.options import DEFAULT_PRIORITY_LEVEL, PRIORITY_LEVELS

SERVER_NAME = "carryover"
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
# The protocol's names of what is implemented, and nothing else.
EXTENSIONS = (
    "classification",
    "sequence",
    "sequence(string_id)",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
SHARED_MEMORY = "system_shared_memory"


def server_metadata(version: str, shared_memory: bool) -> dict[str, object]:
    """Describe the server, as ServerMetadataResponse does."""
    extensions = (*EXTENSIONS, SHARED_MEMORY) if shared_memory else EXTENSIONS
    return {"name": SERVER_NAME, "version": version, "extensions": list(extensions)}


def model_metadata(face: Face, versions: Iterable[int]) -> dict[str, object]:
    """Describe a model, as ModelMetadataResponse does."""
    return {
        "name": face.model.manifest.name,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [_tensor(port) for port in face.inputs.values()],
        "outputs": [_tensor(port) for port in face.outputs.values()],
    }


def model_config(face: Face, sequence_idle_timeout_s: float) -> dict[str, object]:
    """Describe how a model is served, as ModelConfig does."""
    manifest = face.model.manifest
    config: dict[str, object] = {
        "name": manifest.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "version_policy": {"specific": {"versions": [manifest.version]}},
        "max_batch_size": face.max_batch_size,
        "input": [_configured(port) for port in face.inputs.values()],
        "output": [_configured(port) for port in face.outputs.values()],
        "model_transaction_policy": {"decoupled": False},
    }
    if not face.is_stateful:
        config["dynamic_batching"] = {
            "priority_levels": PRIORITY_LEVELS,
            "default_priority_level": DEFAULT_PRIORITY_LEVEL,
        }
        return config
    config["sequence_batching"] = {
        "max_sequence_idle_microseconds": round(sequence_idle_timeout_s * 1e6),
        "oldest": {"max_candidate_sequences": face.model.limits.max_sessions},
        "state": [
            {
                "input_name": state.sequence_input,
                "output_name": state.sequence_output,
                "data_type": config_type(DATATYPE[state.dtype]),
                "dims": list(state.shape),
            }
            for state in manifest.states
            if state.sequence_input is not None and state.sequence_output is not None
        ],
    }
    return config


def _tensor(port: Port) -> dict[str, object]:
    return {"name": port.name, "datatype": port.datatype, "shape": list(port.shape)}


def _configured(port: Port) -> dict[str, object]:
    return {"name": port.name, "data_type": config_type(port.datatype), "dims": list(port.config_dims)}
