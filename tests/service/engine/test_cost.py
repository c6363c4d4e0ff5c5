"""Costs are the measured ones at measured points and on straight lines between them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.cost import Costs, RowCost

POINTS = st.dictionaries(st.integers(1, 300), st.floats(1e-6, 1.0), min_size=1, max_size=8)


@settings(deadline=None)
@given(POINTS, st.integers(1, 300))
def test_between_measured_points_costs_are_on_a_straight_line(points: dict[int, float], rows: int) -> None:
    known = sorted(points)
    if rows <= known[-1]:
        expected = float(np.interp(rows, known, [points[row] for row in known]))
        assert RowCost(points)(rows) == pytest.approx(expected)


def test_beyond_the_last_point_costs_go_on_as_between_the_last_two() -> None:
    cost = RowCost({1: 1.0, 4: 4.0, 8: 12.0})
    assert cost(10) == pytest.approx(16.0)
    assert RowCost({2: 6.0})(4) == pytest.approx(12.0)  # with one point, in proportion


def test_a_noisy_last_point_does_not_make_large_batches_free() -> None:
    assert RowCost({32: 2.0, 64: 1.9})(1000) == pytest.approx(1.9)


@pytest.mark.parametrize("points", [{}, {0: 1.0}, {1: 0.0}, {1: float("nan")}, {1: -1.0, 2: 1.0}])
def test_points_that_are_no_costs_are_refused(points: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="expected seconds above 0 for 1 row and more, got"):
        RowCost(points)


def test_costs_need_the_step_graph_and_powers_of_two() -> None:
    one = RowCost({1: 1.0})
    with pytest.raises(ValueError, match="expected 1 and powers of two, got"):
        Costs(steps={2: one})
    with pytest.raises(ValueError, match="expected 1 and powers of two, got"):
        Costs(steps={1: one, 3: one})
    with pytest.raises(ValueError, match="expected at least 0 s, got -1"):
        Costs(run_s=-1)
