"""Compare tensors that should be equal, or nearly so."""

from typing import Final

import numpy as np

from export.manifest import DType
from importing.signature import Array, is_float

# Relative to the largest value, at least 1; one rounding of the type is more where it is coarse.
TOLERANCE: Final[dict[str, float]] = {"float64": 1e-5, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


def difference(dtype: DType, expected: Array, got: Array) -> float:
    """How far apart two tensors are, relative to the largest value expected (at least 1).

    Values that are no numbers are equal to each other, and infinities to themselves.

    Returns:
        0 where they are the same; infinity where shapes differ, where one is a number and the other not, and where
        what is not rounded differs.
    """
    if expected.shape != got.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    if not is_float(dtype):
        return 0.0 if np.array_equal(expected, got) else float("inf")
    if dtype == "bfloat16":
        expected, got = (_widen(array) for array in (expected, got))
    first, second = expected.astype(np.float64), got.astype(np.float64)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(first - second))
    finite = np.abs(first[np.isfinite(first)])
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max()) / max(1.0, float(finite.max(initial=0.0)))


def has_finite(dtype: DType, array: Array) -> bool:
    """Whether a tensor of floats has a value that can be compared, or no values at all."""
    values = _widen(array) if dtype == "bfloat16" else array
    return not is_float(dtype) or not array.size or bool(np.isfinite(values).any())


def is_close(dtype: DType, apart: float) -> bool:
    """Whether a difference is what rounding explains."""
    return apart <= TOLERANCE.get(dtype, 0.0)


def _widen(array: Array) -> Array:
    """Bits of bfloat16 as float32."""
    return (array.astype(np.uint32) << 16).view(np.float32)
