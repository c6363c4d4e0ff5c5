"""Differences: relative to what is expected, nothing between equals, infinite where no rounding explains them."""

import math

import numpy as np
import pytest

from importing.compare import difference, is_close

INF = math.inf


@pytest.mark.parametrize(
    ("expected", "got", "apart"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([0.5], [0.25], 0.25),  # small values: absolute
        ([100.0, 1.0], [100.0, 2.0], 0.01),  # large ones: relative to the largest
        ([math.nan, INF], [math.nan, INF], 0),
        ([math.nan], [1.0], INF),
        ([1.0], [math.nan], INF),
        ([INF], [-INF], INF),
        ([1.0], [1.0, 1.0], INF),
        ([], [], 0),
    ],
)
def test_floats(expected: list[float], got: list[float], apart: float) -> None:
    assert difference("float32", np.array(expected, np.float32), np.array(got, np.float32)) == pytest.approx(apart)


def test_whole_numbers_and_texts_are_equal_or_not() -> None:
    assert difference("int64", np.array([2**62]), np.array([2**62 + 1])) == INF
    assert difference("bool", np.array([True]), np.array([True])) == 0
    assert difference("string", np.array(["a"], object), np.array(["b"], object)) == INF


def test_bits_of_bfloat16_are_compared_as_numbers() -> None:
    one, next_one = np.array([0x3F80], np.uint16), np.array([0x3F81], np.uint16)
    assert difference("bfloat16", one, next_one) == pytest.approx(2**-7)


def test_one_rounding_passes_and_a_wrong_value_does_not() -> None:
    assert is_close("float32", 1e-6)
    assert not is_close("float32", 1e-4)
    assert is_close("float16", 1e-3)
    assert not is_close("int64", 1e-9)
