import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.device.layout import bucket, buckets, lay_out

ARRAYS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.tuples(st.sampled_from(["bool", "int8", "float16", "int32", "float32", "int64", "float64"]),
              st.lists(st.integers(0, 9), max_size=3)),
    max_size=6,
)  # fmt: skip


@given(ARRAYS)
def test_arrays_in_one_block_hold_what_is_put_there(arrays: dict[str, tuple[str, list[int]]]) -> None:
    layout = lay_out(arrays)
    block = np.zeros(layout.num_bytes, dtype=np.uint8)
    views = {name: place.view(block) for name, place in layout.places.items()}
    values = {}
    for number, (name, (dtype, shape)) in enumerate(arrays.items(), 1):
        assert (views[name].dtype, views[name].shape) == (np.dtype(dtype), tuple(shape))
        assert np.shares_memory(views[name], block) or views[name].size == 0
        assert layout.places[name].offset % 256 == 0
        values[name] = np.full(shape, number, dtype=dtype)
        views[name][...] = values[name]
    for name, value in values.items():  # nobody wrote over another's
        np.testing.assert_array_equal(views[name], value)


@given(ARRAYS, st.data())
def test_a_span_holds_the_arrays_and_no_larger_one(
    arrays: dict[str, tuple[str, list[int]]], data: st.DataObject
) -> None:
    layout = lay_out(arrays)
    chosen = data.draw(st.lists(st.sampled_from(sorted(arrays)), unique=True) if arrays else st.just([]))
    start, end = layout.span(chosen)
    inside = {
        name for name, place in layout.places.items() if start <= place.offset and place.offset + place.num_bytes <= end
    }
    assert inside >= set(chosen)
    largest = max((layout.places[name].num_bytes for name in chosen), default=0)
    assert all(place.num_bytes <= largest for name, place in layout.places.items() if name in inside) or not chosen
    if not chosen:
        assert (start, end) == (0, 0)


@given(st.integers(1, 20_000))
def test_batches_are_padded_to_few_sizes_and_not_by_much(rows: int) -> None:
    size = bucket(rows)
    assert size == bucket(size) >= rows
    if rows > 64:
        assert size < 1.25 * rows
    else:
        assert size < 2 * rows


def test_the_sizes_are_those_that_batches_are_padded_to() -> None:
    assert buckets(100) == [1, 2, 4, 8, 16, 32, 64, 80, 96]
    assert buckets(1) == [1]
    sizes = buckets(1024)
    assert sizes == sorted({bucket(rows) for rows in range(1, 1025)})
    assert len(sizes) == 7 + 4 * 4


@pytest.mark.parametrize("most", [1, 3, 64, 65, 79, 80, 1000])
def test_no_size_is_beyond_what_is_asked_for(most: int) -> None:
    assert buckets(most)[-1] <= most
