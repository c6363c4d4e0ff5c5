"""Inputs that are drawn: how large they are, and that unusual ones stay in what the model is known to take."""

import numpy as np
import pytest

from importing.analysis.draws import Draws
from importing.signature import Value

SHAPE = (4000,)


def test_floats_are_as_large_as_asked() -> None:
    value = Value("x", "float32", SHAPE)
    for scale in (0.1, 1.0, 100.0):
        assert Draws(1, {}).draw(value, SHAPE, scale).std() == pytest.approx(scale, rel=0.1)


def test_unusual_floats_are_positive() -> None:
    for dtype in ("float16", "float32", "float64"):
        assert (Draws(1, {}).draw_unusual(Value("x", dtype, SHAPE), SHAPE, 1.0) >= 0).all()
    bits = Draws(1, {}).draw_unusual(Value("x", "bfloat16", SHAPE), SHAPE, 1.0)
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    assert (values >= 0).all()
    assert values.std() > 0.1


@pytest.mark.parametrize(
    ("dtype", "ranges", "least", "most"),
    [
        ("int16", {}, -1000, 999),
        ("int8", {}, -128, 127),
        ("uint8", {}, 0, 255),
        ("int64", {"x": 7}, 0, 6),
        ("bool", {}, 0, 1),
    ],
)
def test_unusual_whole_numbers_reach_as_far_as_they_may(
    dtype: str, ranges: dict[str, int], least: int, most: int
) -> None:
    value = Value("x", dtype, SHAPE)  # type: ignore[arg-type]
    drawn = Draws(1, ranges).draw_unusual(value, (200_000,), 10.0)
    assert drawn.dtype == dtype
    assert (int(drawn.min()), int(drawn.max())) == (least, most)


def test_what_the_graph_compares_with_is_drawn_if_the_type_has_it() -> None:
    draws = Draws(1, {}, {"x": [40_000.0, 77.0, 0.5]})
    drawn = draws.draw_unusual(Value("x", "int8", SHAPE), SHAPE, 0.01)
    assert (drawn == 77).mean() == pytest.approx(0.25, abs=0.03)
    assert set(drawn[drawn != 77]) <= {-2, -1, 0, 1}
