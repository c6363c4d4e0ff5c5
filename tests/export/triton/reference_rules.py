"""What the reference server asks of a model repository before it loads a model, written down from its sources.

Sources: triton-inference-server/core:src/model_config_utils.cc (ValidateModelConfig, ValidateIOShape),
core:src/sequence_batch_scheduler/sequence_batch_scheduler.cc (GenerateInitialStateData),
onnxruntime_backend:src/onnxruntime.cc (ValidateInputs, ValidateOutputs), backend:src/backend_common.cc
(CompareDimsSupported). The configuration is parsed by the protocol's own message, as tritonclient has it, in a process
of its own: its names are registered only once in a process, and ours are there.
"""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

Message = dict[str, Any]
_PARSE = """
import sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(sys.stdin.read(), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""
_SIZES = {"TYPE_FP32": 4, "TYPE_INT64": 8, "TYPE_INT32": 4, "TYPE_BOOL": 1, "TYPE_FP16": 2, "TYPE_UINT8": 1}
_ORT_TYPES = {
    "TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)", "TYPE_INT32": "tensor(int32)",
    "TYPE_BOOL": "tensor(bool)", "TYPE_FP16": "tensor(float16)", "TYPE_UINT8": "tensor(uint8)",
    "TYPE_STRING": "tensor(string)",
}  # fmt: skip


def parse(path: Path) -> Message:
    """Read a config.pbtxt by the protocol's message."""
    done = subprocess.run([sys.executable, "-c", _PARSE], input=path.read_text(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    assert isinstance(config, dict)
    return config


def check(folder: Path) -> tuple[Message, ort.InferenceSession]:
    """Load a model as the reference server would; fails where that would refuse."""
    config = parse(folder / "config.pbtxt")
    assert config["name"] == folder.name
    assert config["backend"] == "onnxruntime"
    max_batch_size = config.get("max_batch_size", 0)
    for tensor in (*config["input"], *config["output"]):
        _check_io_shape(tensor, max_batch_size)
    versions = [path for path in folder.iterdir() if path.name.isdigit()]
    assert versions
    session = ort.InferenceSession(versions[0] / "model.onnx", providers=["CPUExecutionProvider"])
    states = config.get("sequence_batching", {}).get("state", [])
    for state in states:
        _check_initial_state(state, folder)
    given = {value.name: value for value in session.get_inputs()}
    returned = {value.name: value for value in session.get_outputs()}
    assert len(given) == len(config["input"]) + len(states)
    for tensor in config["input"]:
        _compare(tensor, given[tensor["name"]], max_batch_size, exact=False)
    for tensor in config["output"]:
        _compare(tensor, returned[tensor["name"]], max_batch_size, exact=True)
    for state in states:
        for value in (given[state["input_name"]], returned[state["output_name"]]):
            assert value.type == _ORT_TYPES[state["data_type"]]
    return config, session


def _check_io_shape(tensor: Message, max_batch_size: int) -> None:
    assert tensor["name"] and tensor["data_type"] != "TYPE_INVALID"
    dims = _ints(tensor, "dims")
    assert dims and all(dim >= 1 or dim == -1 for dim in dims)
    if "reshape" in tensor:
        shape = _ints(tensor["reshape"], "shape")
        assert shape or max_batch_size
        assert math.prod(dims) == math.prod(shape)


def _check_initial_state(state: Message, folder: Path) -> None:
    (initial,) = state["initial_state"]
    assert initial["data_type"] == state["data_type"]
    assert initial["name"]
    dims = _ints(state, "dims")
    assert dims and dims == _ints(initial, "dims") and -1 not in dims
    if "data_file" in initial:
        size = (folder / "initial_state" / initial["data_file"]).stat().st_size
        assert size == math.prod(dims) * _SIZES[state["data_type"]]
    else:
        assert initial["zero_data"] is True


def _compare(tensor: Message, value: ort.NodeArg, max_batch_size: int, exact: bool) -> None:
    assert value.type == _ORT_TYPES[tensor["data_type"]]
    dims = _ints(tensor["reshape"], "shape") if "reshape" in tensor else _ints(tensor, "dims")
    shape = [size if isinstance(size, int) else -1 for size in value.shape]
    if not shape:
        assert max_batch_size == 0 and all(dim == 1 for dim in dims)
        return
    if max_batch_size:
        assert shape[0] == -1
        dims = [-1, *dims]
    assert len(dims) == len(shape)
    assert all(a == b for a, b in zip(dims, shape, strict=True) if exact or b != -1), (tensor, shape)


def _ints(message: Mapping[str, Any], field: str) -> list[int]:
    values: Sequence[str] = message.get(field, [])  # int64 is text in JSON
    return [int(value) for value in values]
