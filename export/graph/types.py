"""What ONNX and ONNX Runtime call the types of elements that a manifest knows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from onnx import TensorProto

if TYPE_CHECKING:  # it takes pydantic along, which who tries unknown files in a process apart does without
    from export.manifest import DType

# By ONNX's number.
DTYPES: "Final[Mapping[int, DType]]" = {
    TensorProto.BOOL: "bool",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.FLOAT16: "float16",
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.STRING: "string",
}
ELEMENT_TYPES: "Final[Mapping[DType, int]]" = {dtype: number for number, dtype in DTYPES.items()}
# ONNX Runtime calls them as C++ does.
_OTHERWISE: Final = {"float32": "float", "float64": "double"}
RUNTIME_TYPES: "Final[Mapping[str, DType]]" = {
    f"tensor({_OTHERWISE.get(dtype, dtype)})": dtype for dtype in DTYPES.values()
}
