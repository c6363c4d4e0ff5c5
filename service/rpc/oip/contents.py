"""Tensors whose elements come typed, as `InferTensorContents` has them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.inference import grpc_service_pb2 as pb
from service.oip.codec import check_datatype, num_elements
from service.oip.errors import OipError
from service.oip.messages import DATATYPES

# The field of each type. FP16 and BF16 have none.
_FIELDS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_WIDEST: Mapping[str, str] = {  # the type that each field is called by where it is the wrong one
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp32_contents": "FP32",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
}


def read_contents(
    contents: pb.InferTensorContents, datatype: str, shape: Sequence[int], name: str, model: str
) -> npt.NDArray[Any]:
    """Read a tensor.

    Args:
        contents: Its elements.
        datatype: As the request has it.
        shape: As the request has it.
        name: Of the input, for messages.
        model: Of the model, for messages.

    Raises:
        OipError: There are too few elements or too many, they are in another type's field, or one is out of range.
    """
    check_datatype(datatype, name, model)
    count = num_elements(shape, name, model)
    values = _values(contents, datatype, name, model)
    if datatype == "BYTES":
        if len(values) != count:
            where = f"for inference input '{name}' for model '{model}'"
            raise _wrong(f"expected {count} string elements {where}, got {len(values)}")
        array = np.empty(count, np.object_)
        array[:] = list(values)
        return array.reshape(shape)
    dtype = DATATYPES[datatype]
    if len(values) != count:
        expected, got = count * dtype.itemsize, len(values) * dtype.itemsize
        where = f"for input '{name}' for model '{model}'"
        raise _wrong(f"input byte size mismatch {where}. Expected {expected}, got {got}")
    field = _FIELDS.get(datatype)
    if field is None:  # FP16 and BF16 without elements
        return np.zeros(shape, dtype)
    wide = np.fromiter(values, DATATYPES[_WIDEST[field]], count)
    return _narrowed(wide, datatype, name, model).reshape(shape)


def _values(contents: pb.InferTensorContents, datatype: str, name: str, model: str) -> Sequence[Any]:
    """The elements, which must be in the one field of the type."""
    filled = contents.ListFields()
    if not filled:
        return ()
    where = f"unexpected explicit tensor data for input tensor '{name}' for model '{model}'"
    if len(filled) > 1:
        raise _wrong(f"{where}, binary data was already supplied.")
    ((field, values),) = filled
    if field.name != _FIELDS.get(datatype):
        raise _wrong(f"{where} of type '{_WIDEST[field.name]}', expected datatype '{datatype}'")
    return values  # type: ignore[no-any-return]


def _narrowed(wide: npt.NDArray[Any], datatype: str, name: str, model: str) -> npt.NDArray[Any]:
    """Whole numbers of 8 or 16 bits come in fields of 32."""
    dtype = DATATYPES[datatype]
    if wide.dtype == dtype:
        return wide
    bounds = np.iinfo(dtype)
    if wide.size and (wide.min() < bounds.min or wide.max() > bounds.max):
        got = wide.min() if wide.min() < bounds.min else wide.max()
        where = f"for input '{name}' for model '{model}'"
        raise _wrong(f"unexpected value {where}. Expected {bounds.min} to {bounds.max} for {datatype}, got {got}")
    return wide.astype(dtype)


def _wrong(message: str) -> OipError:
    return OipError("invalid_argument", message)
