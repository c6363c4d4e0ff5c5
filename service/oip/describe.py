"""What the protocol tells of a server and its models, by the names of its fields."""

import json
from collections.abc import Iterable

from export.manifest import ImportedSpec
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
EXAMPLES = "examples"  # parameter of an imported model's configuration: what its inputs may look like


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
    if manifest.imported is not None:
        config["parameters"] = {EXAMPLES: {"string_value": json.dumps(_examples(face, manifest.imported))}}
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


def _examples(face: Face, imported: ImportedSpec) -> dict[str, dict[str, object]]:
    """By input, a shape that works on the wire, with one row, and of what all rows share a value that does."""
    examples: dict[str, dict[str, object]] = {}
    for port in face.inputs.values():
        sizes = [size if isinstance(size, int) else imported.examples.get(size, 1) for size in port.dims]
        examples[port.name] = {"shape": [1, *sizes] if port.has_rows else [1, *(sizes or [1])]}
        if port.name in imported.shared_examples:
            examples[port.name]["value"] = imported.shared_examples[port.name]
    return examples


def _configured(port: Port) -> dict[str, object]:
    return {"name": port.name, "data_type": config_type(port.datatype), "dims": list(port.config_dims)}
