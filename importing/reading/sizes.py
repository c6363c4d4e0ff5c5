"""Sizes that a model declares, against the data that it brings and against a bound; nothing of them is allocated."""

import math
from typing import Final

import onnx
from onnx import TensorProto

from importing.errors import ImportRefused
from importing.reading.walk import graphs, nodes, sparse_tensors, tensors, values
from importing.reading.words import quote

# Bits of one element in `raw_data`. Source: onnx/onnx.proto, TensorProto.DataType.
BITS: Final[dict[int, int]] = {
    TensorProto.BOOL: 8,
    TensorProto.UINT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.INT8: 8,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}


def check_sizes(model: onnx.ModelProto, max_tensor_bytes: int) -> None:
    """Check every declared size.

    Raises:
        ImportRefused: A tensor's data is not as long as its shape says, or a declared shape is too large.
    """
    for tensor in tensors(model):
        check_tensor(tensor, max_tensor_bytes)
    sparse = [found for node in nodes(model) for found in sparse_tensors(node.attribute)]
    for graph in graphs(model):
        sparse += graph.sparse_initializer
    for found in sparse:
        what = f"sparse tensor {quote(found.values.name)}"
        _check_bytes(what, list(found.dims), BITS.get(found.values.data_type, 64), max_tensor_bytes)
    for value in values(model):
        declared = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not declared.HasField("shape"):
            continue
        dims = [dim.dim_value for dim in declared.shape.dim if dim.HasField("dim_value")]
        # Some exporters write what they do not know as -1 or 0.
        known = [dim for dim in dims if dim not in (-1, 0)]
        _check_bytes(f"value {quote(value.name)}", known, BITS.get(declared.elem_type, 64), max_tensor_bytes)


def check_tensor(tensor: onnx.TensorProto, max_tensor_bytes: int) -> None:
    """Check that a tensor with its data inside has as much of it as its shape says."""
    what = f"tensor {quote(tensor.name)}"
    if tensor.data_type != TensorProto.STRING and tensor.data_type not in BITS:
        raise ImportRefused(f"{what}: expected a type of elements that ONNX has, got {tensor.data_type}")
    bits = BITS.get(tensor.data_type, 8)
    _check_bytes(what, list(tensor.dims), bits, max_tensor_bytes)
    if tensor.HasField("segment"):
        raise ImportRefused(f"{what}: expected a whole tensor, got a segment of one")
    if tensor.data_location == TensorProto.EXTERNAL:
        return  # its length is checked where it is found
    num_elements = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        expected, got, unit = num_elements, len(tensor.string_data), "strings"
    elif tensor.HasField("raw_data"):
        expected, got, unit = num_bytes(tensor), len(tensor.raw_data), "bytes"
    else:
        expected, got, unit = num_elements, *_typed_length(tensor, bits)
        if bits == 4 and unit == "elements":
            expected = -(-num_elements // 2)
    if expected != got:
        raise ImportRefused(f"{what}: expected {expected} {unit} for shape {list(tensor.dims)}, got {got}")


def num_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor's shape and type come to; two 4-bit elements share one."""
    return -(-math.prod(tensor.dims) * BITS[tensor.data_type] // 8)


def _typed_length(tensor: onnx.TensorProto, bits: int) -> tuple[int, str]:
    """Elements in the field that tensors of this type use when they do not use raw_data."""
    match tensor.data_type:
        case TensorProto.FLOAT:
            return len(tensor.float_data), "elements"
        case TensorProto.DOUBLE:
            return len(tensor.double_data), "elements"
        case TensorProto.COMPLEX64:
            return len(tensor.float_data) // 2, "elements"
        case TensorProto.COMPLEX128:
            return len(tensor.double_data) // 2, "elements"
        case TensorProto.INT64:
            return len(tensor.int64_data), "elements"
        case TensorProto.UINT32 | TensorProto.UINT64:
            return len(tensor.uint64_data), "elements"
    return len(tensor.int32_data), "elements"


def _check_bytes(what: str, dims: list[int], bits: int, most: int) -> None:
    if any(dim < 0 for dim in dims):
        raise ImportRefused(f"{what}: expected sizes of at least 0, got {quote(dims)}")
    # One by one, so that no product grows beyond what a number of ordinary length is.
    size = bits // 8 or 1
    for dim in dims:
        size *= dim
        if size > most or dim > most:
            raise ImportRefused(f"{what}: expected at most {most} bytes, got shape {quote(dims)}")
