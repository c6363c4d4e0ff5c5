"""States in host memory, through rows in NumPy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.manifest import StateSpec
from service.engine.host import SLAB_ROWS, HostStates
from service.errors import InvalidInput

STATES = (
    StateSpec(name="hidden", dtype="float32", shape=(2, 3), pool_input="hidden_pool", pool_output="hidden_out"),
    StateSpec(name="count", dtype="int64", shape=(), pool_input="count_pool", pool_output="count_out"),
    StateSpec(name="sequence_only", dtype="float32", shape=(5,), sequence_input="in", sequence_output="out"),
    StateSpec(name="cell", dtype="float32", shape=(4,), pool_input="cell_pool", pool_output="cell_out"),
)
NUM_BYTES = 4 * 6 + 8 + 4 * 4


class Rows:
    """Pools of eight rows, all different."""

    def __init__(self) -> None:
        self.pools: dict[str, npt.NDArray[Any]] = {
            spec.name: np.arange(8 * int(np.prod(spec.shape))).reshape(8, *spec.shape).astype(spec.dtype)
            for spec in STATES
            if spec.pool_input is not None
        }

    def read_rows(self, rows: Sequence[int]) -> Mapping[str, npt.NDArray[Any]]:
        return {name: pool[list(rows)] for name, pool in self.pools.items()}

    def write_rows(self, rows: Sequence[int], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, values in tensors.items():
            self.pools[name][list(rows)] = values


@settings(deadline=None)
@given(st.permutations(range(8)), st.integers(1, 8))
def test_rows_that_are_copied_out_come_back_anywhere_and_touch_no_others(order: list[int], count: int) -> None:
    rows, expected = Rows(), Rows()
    host = HostStates(rows, STATES)
    assert host.num_bytes == NUM_BYTES
    kept = host.copy_out(order[:count])
    targets = sorted(order[:count])
    host.copy_in(targets, kept)
    for name, pool in expected.pools.items():
        pool[targets] = pool[order[:count]].copy()
        np.testing.assert_array_equal(rows.pools[name], pool)
    assert host.num_held == count


def test_numbers_keep_every_bit() -> None:
    rows = Rows()
    strange = np.array([np.nan, -0.0, np.inf, 1e-45], dtype=np.float32)
    rows.pools["cell"][3] = strange
    host = HostStates(rows, STATES)
    host.copy_in([5], [host.duplicate(host.copy_out([3])[0])])
    assert rows.pools["cell"][5].tobytes() == strange.tobytes()


@settings(deadline=None)
@given(st.lists(st.integers(-1, 1000), max_size=200), st.integers(1, 3))
def test_host_rows_are_each_their_own_until_they_are_freed(actions: list[int], slabs: int) -> None:
    """-1 keeps another state; any other number frees one that is kept. A dict is the reference."""
    rows = Rows()
    host = HostStates(rows, STATES)
    kept = {handle: 0 for handle in host.copy_out([0] * (slabs * SLAB_ROWS - 3))}
    for number, action in enumerate(actions, 1):
        if action < 0 or not kept:
            handle = host.put({"count": np.array(number, dtype=np.int64)})
            assert handle not in kept
            kept[handle] = number
        else:
            handle = sorted(kept)[action % len(kept)]
            host.free(handle)
            del kept[handle]
    assert host.num_held == len(kept)
    for handle in list(kept)[-20:]:
        assert int(host.tensors(handle)["count"]) == kept[handle]


def test_a_slab_that_nobody_needs_is_given_back() -> None:
    host = HostStates(Rows(), STATES)
    kept = host.copy_out([0] * (SLAB_ROWS + 1))
    for handle in kept:
        host.free(handle)
    assert (host.num_held, host.num_slabs) == (0, 0)
    assert host.tensors(host.copy_out([4])[0])["cell"].tolist() == [16.0, 17.0, 18.0, 19.0]


def test_tensors_go_out_and_in_and_what_is_left_out_is_as_in_the_initial_state() -> None:
    rows = Rows()
    host = HostStates(rows, STATES)
    tensors = host.tensors_of(6)
    assert {name: (t.shape, t.dtype) for name, t in tensors.items()} == {
        s.name: (s.shape, np.dtype(s.dtype)) for s in STATES if s.pool_input is not None
    }
    again = host.tensors(host.put(tensors))
    assert {name: tensor.tolist() for name, tensor in again.items()} == {
        name: pool[6].tolist() for name, pool in rows.pools.items()
    }
    part = host.tensors(host.put({"cell": tensors["cell"]}))
    assert part["cell"].tolist() == rows.pools["cell"][6].tolist()
    assert part["hidden"].tolist() == rows.pools["hidden"][0].tolist()


def test_tensors_are_copies() -> None:
    rows = Rows()
    host = HostStates(rows, STATES)
    host.tensors_of(0)["cell"][:] = -1.0  # can be written to
    assert rows.pools["cell"][0].tolist() == [0.0, 1.0, 2.0, 3.0]
    kept = host.put({})
    host.tensors(kept)["cell"][:] = -1.0
    assert host.tensors(kept)["cell"].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cell": np.zeros(3, dtype=np.float32)}, r"initial_state.cell: expected float32 \[4\], got float32 \[3\]"),
        ({"cell": np.zeros(4)}, r"initial_state.cell: expected float32 \[4\], got float64 \[4\]"),
        ({"cells": np.zeros(4)}, r"initial_state: expected some of \['hidden', 'count', 'cell'\], got \['cells'\]"),
        ({"sequence_only": np.zeros(5)}, "sequence_only"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused(given: dict[str, npt.NDArray[Any]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        HostStates(Rows(), STATES).put(given)
