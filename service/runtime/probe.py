"""A proof, made when a bundle is opened, that its graphs update the pools in place and leave other rows alone.

Aliasing a graph's input and output is allowed by the runtime only as long as nothing reads the input after the output
was written. Whether that holds depends on the graph, the provider and the optimiser of the day, so it is shown on the
real buffers: a step with crossed reads and writes must leave there what the same step on copies computes, and must
leave every other row bit for bit as it was. One of those is poisoned on the real buffers and not on the copies, so that
nothing of it has gone into a row that is right. The scratch row, which takes what padding leaves, is not looked at.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import GraphSpec, Precision
from service.runtime.errors import RunnerError, first_line

Array = npt.NDArray[Any]
NUM_ROWS: Final = 6  # of each pool that take part: 0 and 1 as ever, 2..4 written, 5 a bystander
SCRATCH: Final = 1
BYSTANDER: Final = 5
# Reads and writes of a turn, and what ids are: what was bound for one turn has to be filled in for the next. Four rows,
# a batch that is not padded: padded it might be computed in another order than on copies, which are not.
_TURNS: Final = (((3, 2, 0, 0), (2, 3, 4, SCRATCH), 0), ((4, 3, 0, 0), (3, 4, 2, SCRATCH), 1))
# Absolute, by the precision that a graph computes in; a wrong row is off by about 1. Of 16 bits the last one is worth
# up to 2e-3 in the state of a cell, and several roundings add up.
_TOLERANCES: Final[dict[Precision, float]] = {"fp32": 1e-4, "int8": 1e-4, "fp16": 0.02}


class ProbeFailure(RunnerError):
    """The graph does not do in place what it does on copies; says which pool and rows."""


class Probed(Protocol):
    """A graph bound to the real pools that can also be run on copies."""

    spec: GraphSpec
    updated: dict[str, str]

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run on the real pools."""

    def run_apart(self, inputs: Mapping[str, Array], pools: Mapping[str, Array]) -> dict[str, Array]:
        """Run on copies; give the updated pools by their input's name."""


class ProbedPools(Protocol):
    """The real pools, by name of the graphs' inputs."""

    def whole(self, pool: str) -> Array:
        """Copy a pool out."""

    def replace(self, pool: str, value: Array) -> None:
        """Set all of a pool."""


def probe_graph(graph: Probed, precision: Precision, pools: ProbedPools, num_turns: int = 1) -> None:
    """Prove the graph, leaving all pools zero as they were found.

    Args:
        graph: To be proved.
        precision: That it computes in.
        pools: That it is bound to.
        num_turns: 1 or 2 runs.

    Raises:
        ProbeFailure: It reads or writes a row that it should not, or does not update in place.
    """
    if not graph.updated:
        return
    for reads, writes, an_id in _TURNS[:num_turns]:
        written = [row for row in writes if row != SCRATCH]
        _probe(graph, pools, _inputs(graph.spec, reads, writes, an_id), written, _TOLERANCES[precision])


def _probe(
    graph: Probed, pools: ProbedPools, inputs: Mapping[str, Array], written: list[int], tolerance: float
) -> None:
    before: dict[str, Array] = {}
    generator = np.random.default_rng(0)
    for name in _pool_inputs(graph.spec):
        pool = pools.whole(name)
        pool[2:NUM_ROWS] = generator.standard_normal(pool[2:NUM_ROWS].shape)
        before[name] = pool
    expected = graph.run_apart(inputs, {name: pool[:NUM_ROWS].copy() for name, pool in before.items()})
    for name, pool in before.items():
        poison(pool[BYSTANDER : BYSTANDER + 1])
        pools.replace(name, pool)
    run_poisoned(graph, inputs)
    for name, pool in before.items():
        _compare(name, pool, expected.get(name), pools.whole(name), written, tolerance)
        pools.replace(name, np.zeros_like(pool))


def poison(rows: Array) -> None:
    """Set all bits of numbers: of a float that is no number, and shows in whatever is computed from it."""
    if rows.dtype == np.bool_:
        rows[...] = True
    elif rows.size:
        rows.view(np.uint8)[...] = 0xFF


def run_poisoned(graph: Probed, inputs: Mapping[str, Array]) -> None:
    """Run on the real pools what has run on copies.

    Raises:
        ProbeFailure: It does not run there.
    """
    try:
        graph.run(inputs, ())
    except Exception as error:  # of ONNX Runtime, whose types are many: a number made of poison was used as an index
        raise ProbeFailure(f"expected a run in place as on a copy, got {first_line(error)}") from None


def changed_rows(before: Array, got: Array, written: list[int]) -> list[int]:
    """Rows that are not bit for bit as before though they should be."""
    if not before.size:
        return []
    untouched = np.delete(np.arange(len(before)), [*written, SCRATCH])
    bits = [np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8) for array in (before, got)]
    changed: list[int] = untouched[(bits[0][untouched] != bits[1][untouched]).any(axis=1)].tolist()
    return changed


def _compare(
    name: str, before: Array, expected: Array | None, got: Array, written: list[int], tolerance: float
) -> None:
    if expected is None:
        written = []
    if changed := changed_rows(before, got, written):
        raise ProbeFailure(f"{name}: expected only rows {written} to change, got row {changed[0]} too")
    if expected is None:
        return
    if np.array_equal(expected[written], before[written]):
        raise ProbeFailure(f"{name}: expected the graph to change rows {written}, got them as before")
    if not np.allclose(expected[written], got[written], rtol=0, atol=tolerance):
        worst = float(np.abs(expected[written] - got[written]).max())
        raise ProbeFailure(f"{name}: expected in place the same as on a copy, got a difference of {worst:g}")


def _pool_inputs(spec: GraphSpec) -> list[str]:
    return [tensor.name for tensor in spec.inputs if tensor.shape and tensor.shape[0] in ("N", "P")]


def _inputs(spec: GraphSpec, reads: tuple[int, ...], writes: tuple[int, ...], an_id: int) -> dict[str, Array]:
    """Rows of the shortest input there is."""
    inputs: dict[str, Array] = {}
    pools = set(_pool_inputs(spec))
    for tensor in spec.inputs:
        if tensor.name in pools:
            continue
        shape = [{"B": len(writes)}.get(d, 1) if isinstance(d, str) else d for d in tensor.shape]
        inputs[tensor.name] = np.full(shape, 1 if "lengths" in tensor.name else an_id, dtype=tensor.dtype)
    for name, rows in (("read_slots", reads), ("write_slots", writes)):
        if name in inputs:
            inputs[name] = np.array(rows, dtype=np.int64)
    if "source_rows" in inputs:
        inputs["source_rows"] = np.array(writes, dtype=np.int64).reshape(-1, 1)
    return inputs
