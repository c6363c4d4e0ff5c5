"""What is kept of a row, against a full sort."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.decoding.select import largest, nucleus


def in_order(values: npt.NDArray[np.float32]) -> list[int]:
    return sorted(range(len(values)), key=lambda place: (-values[place], place))


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 3_000),
    levels=st.sampled_from([2, 30, 10**6]),
    count=st.integers(1, 60),
)
@settings(max_examples=150, deadline=None)
def test_the_largest_are_those_that_a_sort_puts_first(seed: int, size: int, levels: int, count: int) -> None:
    values = -np.random.default_rng(seed).integers(0, levels, size).astype(np.float32)
    count = min(count, size)
    assert largest(values, count).tolist() == sorted(in_order(values)[:count])


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 2_000),
    levels=st.sampled_from([3, 50, 4096]),
    top_p=st.one_of(st.floats(1e-6, 1.0), st.just(1.0)),
)
@settings(max_examples=150, deadline=None)
def test_the_nucleus_is_the_shortest_start_of_a_sort_that_weighs_enough(
    seed: int, size: int, levels: int, top_p: float
) -> None:
    """Weights of few bits, so that every sum is exact and there is one right answer."""
    weights = (np.random.default_rng(seed).integers(0, levels, size) / 4096).astype(np.float32)
    weights[seed % size] = 1.0
    order = in_order(weights)
    masses = weights.astype(np.float64)[order].cumsum()
    count = int((masses >= top_p * masses[-1]).argmax()) + 1
    assert nucleus(weights, top_p).tolist() == sorted(order[:count])


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_a_nucleus_holds_weights_of_any_size(scale: float) -> None:
    """Down to what float32 can hardly tell from 0; sums are rounded, so one place more or less is right too."""
    weights = np.exp(-np.random.default_rng(0).exponential(scale, 5_000)).astype(np.float32)
    weights[17] = 1.0
    order = in_order(weights)
    masses = weights.astype(np.float64)[order].cumsum()
    for top_p in (0.01, 0.5, 0.99, 0.999999):
        kept = nucleus(weights, top_p)
        assert kept.tolist() == sorted(order[: len(kept)])
        assert abs(len(kept) - (int((masses >= top_p * masses[-1]).argmax()) + 1)) <= 1
