"""The `data` field of the protocol's JSON tensors: lists of numbers, of booleans or of text.

A value that the tensor's type cannot hold exactly as an integer or boolean, or only as an infinity, is an error, where
the reference server wraps or saturates it. NaN and infinities are written as the JavaScript names `NaN`, `Infinity` and
`-Infinity`, which the protocol's clients read and write.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from service.oip.errors import OipError
from service.oip.messages import DATATYPES

BINARY_ONLY = frozenset({"FP16", "BF16"})  # as inputs: JSON numbers would have to be rounded
_EXPECTED = {"b": "booleans", "i": "integers", "u": "integers", "f": "numbers", "O": "text"}
_TYPES: dict[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
    "O": frozenset({str}),
}


def read_values(name: str, datatype: str, shape: Sequence[int], data: object) -> npt.NDArray[Any]:
    """Turn the `data` of an input into its array.

    Args:
        name: Of the input, for errors.
        datatype: One of DATATYPES.
        shape: Of the result.
        data: As it was parsed: a list, nested in any way, of as many values as the shape has.

    Raises:
        OipError: Values of another type, out of its range, or of another number; or a type that has no JSON form.
    """
    if datatype in BINARY_ONLY:
        raise OipError(
            "invalid_argument",
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}",
        )
    dtype = DATATYPES[datatype]
    values = _flatten(name, data)
    unfit = set(map(type, values)) - _TYPES[dtype.kind]
    if unfit:
        kinds = sorted(kind.__name__ for kind in unfit)
        raise _unparsed(name, f"expected {_EXPECTED[dtype.kind]} for {datatype}, got {', '.join(kinds)}")
    expected = math.prod(shape)
    if len(values) != expected:
        got = f"expected {expected} values for {list(shape)}, got {len(values)}"
        raise _unparsed(name, f"Shape does not match true shape of 'data' field, {got}")
    try:
        return _array(values, dtype).reshape(shape)
    except OverflowError:
        raise _unparsed(name, f"expected values that {datatype} can hold, got others") from None
    except UnicodeEncodeError:
        raise _unparsed(name, "expected text that UTF-8 can hold, got half of a surrogate pair") from None


def write_values(name: str, datatype: str, array: npt.NDArray[Any]) -> list[Any]:
    """Turn an output's array into its `data`, flat.

    Raises:
        OipError: Bytes that are not text.
    """
    if datatype == "BF16":  # the upper half of an FP32
        return (array.astype(np.uint32) << 16).view(np.float32).ravel().tolist()
    if datatype != "BYTES":
        return array.ravel().tolist()
    try:
        return [value.decode() for value in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise OipError(
            "invalid_argument", f"output '{name}' holds bytes that are not UTF-8. Please ask for binary data"
        ) from None


def _flatten(name: str, data: object) -> list[Any]:
    """List the values of a nested list in order; each turn removes one level."""
    if not isinstance(data, list):
        raise _unparsed(name, f"expected an array, got {type(data).__name__}")
    values: list[Any] = data
    while values and isinstance(values[0], list):
        if set(map(type, values)) != {list}:
            raise _unparsed(name, "expected values at one depth, got them at several")
        values = list(chain.from_iterable(values))
    return values


def _array(values: list[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if dtype.kind == "O":
        array = np.empty(len(values), dtype)
        array[:] = [value.encode() for value in values]
        return array
    if dtype.kind != "f":
        return np.array(values, dtype)
    exact = np.array(values, np.float64)
    with np.errstate(over="ignore"):
        array = exact.astype(dtype)
    if np.isinf(array).sum() != np.isinf(exact).sum():
        raise OverflowError
    return array


def _unparsed(name: str, reason: str) -> OipError:
    return OipError("invalid_argument", f"Unable to parse 'data' of input '{name}': {reason}")
