"""The proof of a graph against graphs, in NumPy, that round, pad or take a wrong row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.manifest import GraphSpec, Precision, TensorSpec
from service.runtime.device.layout import bucket
from service.runtime.probe import NUM_ROWS, ProbeFailure, probe_graph

Array = npt.NDArray[Any]
POOL = "h_pool"
SPEC = GraphSpec(
    file="step.onnx",
    inputs=(
        *(TensorSpec(name=name, dtype="int64", shape=("B",)) for name in ("tokens", "read_slots", "write_slots")),
        TensorSpec(name=POOL, dtype="float32", shape=("N", 8)),
    ),
    outputs=(),
)
SIXTEEN_BITS = 2.0**-11  # of a number between a half and one, its last bit


class Step:
    """Halves the state of a row and adds its token, in place with a difference."""

    spec = SPEC

    def __init__(self, off_by: float = 0.0, wrong_row: bool = False) -> None:
        self.updated = {POOL: "h_pool_out"}
        self.pool = np.zeros((NUM_ROWS + 2, 8), np.float32)
        self.num_rows: list[int] = []  # of each run
        self._off_by, self._wrong_row = off_by, wrong_row

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        reads = inputs["read_slots"]
        self._step(self.pool, inputs, reads[::-1] if self._wrong_row else reads, self._off_by)
        return {}

    def run_apart(self, inputs: Mapping[str, Array], pools: Mapping[str, Array]) -> dict[str, Array]:
        copy = pools[POOL].copy()
        self._step(copy, inputs, inputs["read_slots"], 0.0)
        return {POOL: copy}

    def whole(self, pool: str) -> Array:
        return self.pool.copy()

    def replace(self, pool: str, value: Array) -> None:
        self.pool[...] = value

    def _step(self, pool: Array, inputs: Mapping[str, Array], reads: Array, off_by: float) -> None:
        self.num_rows.append(len(reads))
        pool[inputs["write_slots"]] = 0.5 * pool[reads] + inputs["tokens"][:, None] + 0.25 + off_by


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_batches_are_as_large_in_place_as_on_copies_padded_or_not(precision: Precision) -> None:
    step = Step()
    probe_graph(step, precision, step, 2)
    assert len(step.num_rows) == 4 and step.num_rows == [bucket(rows) for rows in step.num_rows]
    assert not step.pool.any()


def test_what_rounds_to_sixteen_bits_may_be_off_by_some_of_them() -> None:
    step = Step(off_by=4 * SIXTEEN_BITS)
    probe_graph(step, "fp16", step)
    for precision in ("fp32", "int8"):
        with pytest.raises(ProbeFailure, match="h_pool: expected in place the same as on a copy, got a difference of"):
            probe_graph(step, precision, step)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_wrong_row_is_found_in_any_precision(precision: Precision) -> None:
    step = Step(wrong_row=True)
    with pytest.raises(ProbeFailure, match="h_pool: expected in place the same as on a copy"):
        probe_graph(step, precision, step)
