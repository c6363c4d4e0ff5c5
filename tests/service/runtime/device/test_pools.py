"""Rows of pools on a device against plain arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.runtime.device import pools as pools_module
from service.runtime.device.pools import DevicePools
from service.runtime.pools import PoolSize
from tests.service.runtime.device.far import FarMemory

ROWS = 12
SIZES = [
    PoolSize("narrow", ROWS, (3,), "int8"),
    PoolSize("count", ROWS, (), "int64"),
    PoolSize("wide", ROWS, (2, 5), "float32"),
    PoolSize("half", ROWS, (1,), "bfloat16"),
    PoolSize("empty", ROWS, (0,), "float32"),
]
NAMES = {size.name: size.name for size in SIZES}
DTYPES = {"narrow": "int8", "count": "int64", "wide": "float32", "half": "uint16", "empty": "float32"}


def arrays() -> dict[str, np.ndarray]:
    return {size.name: np.zeros(size.shape, DTYPES[size.name]) for size in SIZES}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_rows_read_and_written_in_any_order_are_those_of_arrays(data: st.DataObject) -> None:
    memory = FarMemory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools_module, "_MOST_STAGED", data.draw(st.sampled_from([1, 130, 2**20])))
        pools, expected = DevicePools(SIZES, memory), arrays()
        if data.draw(st.booleans()):
            pools.double()
        for turn in range(data.draw(st.integers(1, 6))):
            rows = data.draw(st.permutations(range(ROWS)))[: data.draw(st.integers(0, ROWS))]
            names = data.draw(st.lists(st.sampled_from(sorted(NAMES)), unique=True))
            values = {
                name: np.random.default_rng(turn).integers(-9, 99, (len(rows), *expected[name].shape[1:]))
                for name in names
            }
            pools.write(rows, {name: value.astype(DTYPES[name]) for name, value in values.items()})
            for name, value in values.items():
                expected[name][rows] = value.astype(DTYPES[name])
            asked = data.draw(st.lists(st.integers(0, ROWS - 1)))
            got = pools.read({f"the {name}": name for name in names}, asked)
            assert got.keys() == {f"the {name}" for name in names}
            for name in names:
                np.testing.assert_array_equal(got[f"the {name}"], expected[name][asked])
        for name, array in expected.items():
            np.testing.assert_array_equal(pools.whole(name), array)


def test_only_rows_that_are_asked_for_move_neighbours_together_and_all_at_once() -> None:
    memory = FarMemory()
    pools = DevicePools(SIZES, memory)
    assert pools.indexes_rows
    pools.read({"wide": "wide", "count": "count"}, [4, 5, 6, 9])
    [transfers] = memory.downloads
    assert sorted(transfer.num_bytes for transfer in transfers) == [8, 3 * 8, 40, 3 * 40]
    pools.write(range(2, 11), {"wide": np.ones((9, 2, 5), np.float32)})
    [[transfer]] = memory.uploads
    assert transfer.num_bytes == 9 * 40


def test_what_is_read_is_a_copy_and_what_is_written_is_converted() -> None:
    pools = DevicePools(SIZES, FarMemory())
    first = pools.read({"wide": "wide"}, [3])["wide"]
    pools.write([3], {"wide": np.ones((1, 2, 5), np.float64), "count": np.array(7)})
    assert not first.any()
    assert pools.read(NAMES, [3])["wide"].dtype == np.float32
    assert pools.whole("count").tolist() == [0, 0, 0, 7] + [0] * 8
    pools.replace("count", np.arange(ROWS, dtype=np.int64)[::-1])
    assert pools.whole("count").tolist() == list(range(ROWS))[::-1]


@pytest.mark.parametrize("rows", [[ROWS], [-1], [0, 1, ROWS]])
def test_rows_that_are_not_there_are_refused_before_anything_moves(rows: list[int]) -> None:
    memory = FarMemory()
    pools = DevicePools(SIZES, memory)
    with pytest.raises(IndexError, match=f"expected numbers from 0 to {ROWS - 1}, got"):
        pools.read(NAMES, rows)
    with pytest.raises(IndexError):
        pools.write(rows, {"count": np.zeros(len(rows), np.int64)})
    assert (memory.uploads, memory.downloads) == ([], [])


def test_what_pools_take_is_said() -> None:
    pools = DevicePools(SIZES, FarMemory())
    each = ROWS * (3 + 8 + 40 + 2)
    assert pools.num_bytes == each
    pools.double()
    assert (pools.num_bytes, pools.in_place) == (2 * each, False)
