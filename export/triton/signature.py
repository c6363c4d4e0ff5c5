"""What ONNX Runtime says a graph takes and gives: the reference server compares its configuration with this."""

import os

import onnx

from export.graph.types import RUNTIME_TYPES
from export.triton.config import Tensor
from export.triton.errors import TritonError

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort


def signature(model: onnx.ModelProto) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Open a graph as the reference server's backend does, and ask for its inputs and outputs.

    The sizes that it infers count, not those that the file declares: the server refuses a configuration whose outputs
    differ from them.

    Raises:
        TritonError: It cannot be opened, or has what the server cannot carry.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its types are many
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TritonError(f"graph: expected one that ONNX Runtime opens, got: {reason}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return tuple(map(_tensor, inputs)), tuple(map(_tensor, outputs))


def _tensor(value: ort.NodeArg) -> Tensor:
    dtype = RUNTIME_TYPES.get(value.type)
    if dtype is None:
        raise TritonError(f"tensor {value.name}: expected one of {sorted(RUNTIME_TYPES.values())}, got {value.type}")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    if 0 in shape:
        raise TritonError(f"tensor {value.name}: expected sizes of at least 1, got {list(shape)}")
    return Tensor(value.name, dtype, shape)
