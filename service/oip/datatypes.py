"""What the protocol calls the types of a manifest."""

from collections.abc import Mapping

from export.manifest import DType

DATATYPE: Mapping[DType, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "string": "BYTES",
}


def config_type(datatype: str) -> str:
    """What a model's configuration calls a type of the protocol."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def dims_text(shape: tuple[int, ...]) -> str:
    """A shape as messages tell it: [1,-1,3]."""
    return f"[{','.join(map(str, shape))}]"
