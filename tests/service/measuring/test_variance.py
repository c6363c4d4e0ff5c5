"""Whether a difference is one of rounding."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.manifest import DType
from service.measuring.variance import Variance, difference

Array = npt.NDArray[Any]
NAN, INF = float("nan"), float("inf")


def floats(*values: float, dtype: str = "float32") -> Array:
    return np.array(values, dtype)


def test_a_finding_is_a_line() -> None:
    line = str(Variance("step", "state:h", (2, 13), 0.25, True))
    assert line == "step: state:h differs in batches of 2, 13 by up to 0.25"


@pytest.mark.parametrize(
    ("alone", "got", "is_far"),
    [
        (floats(1, 2), floats(1, 2 + 1e-5), False),
        (floats(1, 2), floats(1, 2.01), True),
        (floats(1, 1e-6), floats(1, 3e-6), False),  # what may have cancelled out
        (floats(1e-8), floats(1.1e-8), True),
        (floats(1e9, 1), floats(1e9, 1.1), True),  # hidden beside what is large
        (floats(1e9, 1), floats(1e9 + 64, 1), False),
        (floats(0), floats(1e-30), True),
        (floats(NAN, INF, 1), floats(NAN, INF, 1), False),
        (floats(NAN, 1), floats(0, 1), True),
        (floats(1, 1), floats(NAN, 1), True),
        (floats(INF), floats(-INF), True),
        (floats(1), floats(1, 1), True),
        (floats(), floats(), False),
    ],
)
def test_numbers_round_by_little_of_how_large_they_are(alone: Array, got: Array, is_far: bool) -> None:
    assert difference("float32", alone, got, [alone])[1] == is_far


def test_how_large_numbers_are_is_seen_in_several_rows() -> None:
    """One row may be near zero by chance; a place at which all are is not."""
    alone, got = floats(0.1, 5), floats(0.101, 5)
    assert difference("float32", alone, got, [alone])[1]
    assert not difference("float32", alone, got, [alone, floats(2, -3), floats(-INF, NAN)])[1]
    assert difference("float32", alone, got, [alone, floats(2, -3, 4)])[1]  # of another length: not the same places


def test_the_largest_difference_is_told() -> None:
    assert difference("float32", floats(1, -2), floats(1.5, 2), [floats(1, -2)])[0] == 4
    assert difference("float32", floats(1), floats(NAN), [floats(1)])[0] == INF


@pytest.mark.parametrize(("dtype", "rounded", "far"), [("float64", 1.0001, 1.01), ("float16", 1.01, 1.5)])
def test_coarse_types_round_by_more(dtype: DType, rounded: float, far: float) -> None:
    one = floats(1, dtype=dtype)
    assert not difference(dtype, one, floats(rounded, dtype=dtype), [one])[1]
    assert difference(dtype, one, floats(far, dtype=dtype), [one])[1]


def test_where_factors_were_rounded_to_ten_bits_float32_is_as_coarse() -> None:
    """An eleventh bit of a fraction is worth 5e-4; several of them add up to more than what float32 may be off by."""
    one, rounded, far = floats(1), floats(1 + 8 * 2**-11), floats(1.5)
    assert difference("float32", one, rounded, [one])[1]
    assert not difference("float32", one, rounded, [one], tf32=True)[1]
    assert difference("float32", one, far, [one], tf32=True)[1]
    for dtype in ("float64", "int64"):  # which are not rounded so
        first, second = np.array([1000], dtype), np.array([1002], dtype)
        assert difference(dtype, first, second, [first], tf32=True)[1]


def test_bits_of_bfloat16_are_the_numbers_that_they_stand_for() -> None:
    def bits(value: float) -> Array:
        return (np.array([value], np.float32).view(np.uint32) >> 16).astype(np.uint16)

    assert difference("bfloat16", bits(1), bits(1.0625), [bits(1)]) == (0.0625, False)
    assert difference("bfloat16", bits(1), bits(2), [bits(1)]) == (1, True)


@pytest.mark.parametrize(
    ("dtype", "alone", "got"),
    [("int64", 10**6, 10**6 + 1), ("uint8", 255, 254), ("bool", True, False), ("string", b"a", b"b")],
)
def test_what_is_no_number_with_a_fraction_does_not_round(dtype: DType, alone: Any, got: Any) -> None:
    kind = object if dtype == "string" else dtype
    one, other = np.array([alone], kind), np.array([got], kind)
    assert difference(dtype, one, other, [one])[1]
    assert not difference(dtype, one, one.copy(), [one])[1]
