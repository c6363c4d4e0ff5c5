"""Tensors as the protocol's raw bytes: little-endian, row-major, without padding.

An element of BYTES is its length, 4 bytes, and then its bytes. BF16 travels as its bits. Numbers are not copied: the
array is a view of the bytes, and of a shared region if that is where they lie.
"""

from collections.abc import Mapping, Sequence
from math import prod
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from service.oip.errors import OipError
from service.oip.messages import DATATYPES, Tensor

MAX_DIMENSIONS = 32
MAX_ELEMENTS = 2**58  # more than any memory holds, and their bytes can be counted in an int64
MAX_TEXTS = 2**16  # elements of BYTES in a tensor: each is an object to make, while the event loop waits

_LITTLE: Mapping[str, np.dtype[Any]] = {name: dtype.newbyteorder("<") for name, dtype in DATATYPES.items()}
_LENGTH = Struct("<I")


def element_bytes(datatype: str) -> int:
    """Size of an element of a number type, in bytes; 0 for BYTES, whose elements differ."""
    return 0 if datatype == "BYTES" else DATATYPES[datatype].itemsize


def check_datatype(datatype: str, name: str, model: str) -> None:
    """See whether a type is one of the protocol's.

    Raises:
        OipError: It is none.
    """
    if datatype not in DATATYPES:
        known = ", ".join(DATATYPES)
        raise _wrong(f"inference input '{name}' data-type is '{datatype}' for model '{model}', expected one of {known}")


def num_elements(shape: Sequence[int], name: str, model: str) -> int:
    """Count the elements of a tensor of a shape; 1 for that of a scalar.

    Raises:
        OipError: A dimension is below 0, or there are too many of them or of elements.
    """
    if len(shape) <= MAX_DIMENSIONS and min(shape, default=0) >= 0:
        count = prod(shape)
        # numpy counts in an int64 and skips no dimension for another that is 0
        if count <= MAX_ELEMENTS and (count or prod(size for size in shape if size) <= MAX_ELEMENTS):
            return count
    expected = f"at most {MAX_DIMENSIONS} dimensions, none below 0, of at most {MAX_ELEMENTS} elements in all"
    got = f"{list(shape)}" if len(shape) <= MAX_DIMENSIONS else f"{len(shape)} dimensions"
    raise _wrong(f"unexpected shape for input '{name}' for model '{model}'. Expected {expected}, got {got}.")


def check_num_texts(count: int, name: str, model: str) -> None:
    """See whether an input has few enough texts.

    Raises:
        OipError: It has more than MAX_TEXTS.
    """
    if count > MAX_TEXTS:
        where = f"for inference input '{name}' for model '{model}'"
        raise _wrong(f"unexpected number of string elements {count} {where}, expecting at most {MAX_TEXTS}")


def decode(data: bytes | memoryview, datatype: str, shape: Sequence[int], name: str, model: str) -> npt.NDArray[Any]:
    """Read a tensor.

    Args:
        data: Its bytes.
        datatype: One of the protocol's.
        shape: Its shape.
        name: Of the input, for messages.
        model: Of the model, for messages.

    Returns:
        The values in that shape; numbers are a view of `data`.

    Raises:
        OipError: There are too few bytes or too many, or the type or the shape is none.
    """
    little = _LITTLE.get(datatype)
    if little is None:
        check_datatype(datatype, name, model)
    count = num_elements(shape, name, model)
    if datatype == "BYTES":
        return _decode_strings(data, count, name, model).reshape(shape)
    assert little is not None
    size = memoryview(data).nbytes
    if size != count * little.itemsize:
        raise _size_mismatch(name, model, count * little.itemsize, size)
    array = np.frombuffer(data, little).reshape(shape)
    if datatype == "BOOL" and count:
        array = array.copy()  # what is looked at must be what is used: a region has an owner who may write
        if (most := array.view(np.uint8).max()) > 1:  # numpy would make what it likes of it
            raise _wrong(f"unexpected value for input '{name}' for model '{model}'. Expected 0 or 1, got {most}")
    return array if array.flags.aligned else array.copy()  # as in a region at an odd offset


def encode(tensor: Tensor) -> bytes:
    """Write a tensor."""
    if tensor.datatype == "BYTES":
        elements: list[bytes] = tensor.array.reshape(-1).tolist()
        parts = [b""] * (2 * len(elements))
        parts[::2] = map(_LENGTH.pack, map(len, elements))
        parts[1::2] = elements
        return b"".join(parts)
    return tensor.array.astype(_LITTLE[tensor.datatype], copy=False).tobytes()


def encoded_bytes(tensor: Tensor) -> int:
    """Size of a tensor once it is written, in bytes."""
    if tensor.datatype == "BYTES":
        return tensor.array.size * _LENGTH.size + sum(map(len, tensor.array.reshape(-1).tolist()))
    return tensor.array.size * DATATYPES[tensor.datatype].itemsize


def encode_into(target: memoryview, tensor: Tensor) -> None:
    """Write a tensor to the front of memory that has room for it."""
    if tensor.datatype == "BYTES":
        data = encode(tensor)
        target[: len(data)] = data
        return
    little = _LITTLE[tensor.datatype]
    room = np.frombuffer(target, np.uint8, encoded_bytes(tensor))
    np.copyto(room.view(little).reshape(tensor.array.shape), tensor.array)


def _decode_strings(lent: bytes | memoryview, count: int, name: str, model: str) -> npt.NDArray[np.object_]:
    """Read the elements of BYTES, of which there must be `count`."""
    check_num_texts(count, name, model)
    data = bytes(lent)  # the slices of bytes are bytes; and nobody can write them meanwhile
    where = f"for inference input '{name}' for model '{model}'"
    size, head, length_at = len(data), _LENGTH.size, _LENGTH.unpack_from
    at, elements = 0, list[bytes]()
    for _ in range(count):
        begin = at + head
        if begin > size:
            break
        at = begin + length_at(data, at)[0]
        elements.append(data[begin:at])
    if at > size:
        there = len(elements[-1])
        length = at - size + there
        raise _wrong(
            f"incomplete string data {where}, expecting string of length {length} but only {there} bytes available"
        )
    if at < size and size - at < head:
        raise _wrong(
            f"incomplete string length indicator {where}, expecting {head} bytes but only {size - at} bytes available. "
            "Please make sure the string length indicator is in one buffer."
        )
    if at < size:
        raise _wrong(f"unexpected number of string elements {count + 1} {where}, expecting {count}")
    if len(elements) != count:
        raise _wrong(f"expected {count} string elements {where}, got {len(elements)}")
    array = np.empty(count, np.object_)
    array[:] = elements
    return array


def _size_mismatch(name: str, model: str, expected: int, got: int) -> OipError:
    return _wrong(f"input byte size mismatch for input '{name}' for model '{model}'. Expected {expected}, got {got}")


def _wrong(message: str) -> OipError:
    return OipError("invalid_argument", message)
