"""States as bytes, through rows in NumPy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.manifest import StateSpec
from service.engine.packing import StatePacker
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


@given(st.permutations(range(8)), st.integers(1, 8))
def test_rows_that_are_packed_come_back_anywhere_and_touch_no_others(order: list[int], count: int) -> None:
    rows, expected = Rows(), Rows()
    packer = StatePacker(rows, STATES)
    packed = packer.pack(order[:count])
    assert [len(row) for row in packed] == [NUM_BYTES] * count == [packer.num_bytes] * count
    targets = sorted(order[:count])
    packer.unpack(targets, packed)
    for name, pool in expected.pools.items():
        pool[targets] = pool[order[:count]].copy()
        np.testing.assert_array_equal(rows.pools[name], pool)


def test_numbers_keep_every_bit() -> None:
    rows = Rows()
    strange = np.array([np.nan, -0.0, np.inf, 1e-45], dtype=np.float32)
    rows.pools["cell"][3] = strange
    packer = StatePacker(rows, STATES)
    packer.unpack([5], packer.pack([3]))
    assert rows.pools["cell"][5].tobytes() == strange.tobytes()


def test_tensors_go_out_and_in_and_what_is_left_out_is_as_in_the_initial_state() -> None:
    rows = Rows()
    packer = StatePacker(rows, STATES)
    initial = packer.tensors(None)
    assert {name: tensor.tolist() for name, tensor in initial.items()} == {
        name: pool[0].tolist() for name, pool in rows.pools.items()
    }
    packed = packer.pack([6])[0]
    tensors = packer.tensors(packed)
    assert {name: (t.shape, t.dtype) for name, t in tensors.items()} == {
        s.name: (s.shape, np.dtype(s.dtype)) for s in STATES if s.pool_input is not None
    }
    assert packer.from_tensors(tensors) == packed
    part = packer.tensors(packer.from_tensors({"cell": tensors["cell"]}))
    assert part["cell"].tolist() == rows.pools["cell"][6].tolist()
    assert part["hidden"].tolist() == rows.pools["hidden"][0].tolist()


def test_tensors_are_copies() -> None:
    rows = Rows()
    packer = StatePacker(rows, STATES)
    packer.tensors(None)["cell"][:] = -1.0  # can be written to
    assert rows.pools["cell"][0].tolist() == [0.0, 1.0, 2.0, 3.0]


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
        StatePacker(Rows(), STATES).from_tensors(given)
