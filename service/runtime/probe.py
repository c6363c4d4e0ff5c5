"""A proof, made when a bundle is opened, that its graphs update the pools in place and leave other rows alone.

Aliasing a graph's input and output is allowed by the runtime only as long as nothing reads the input after the output
was written. Whether that holds depends on the graph, the provider and the optimiser of the day, so it is shown on the
real buffers: a step with crossed reads and writes must leave there what the same step on copies computes, and must
leave every other row bit for bit as it was.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import GraphSpec

Array = npt.NDArray[Any]
NUM_ROWS: Final = 6  # of each pool that take part: 0 and 1 as ever, 2..4 written, 5 a bystander
_READ, _WRITE = (3, 2, 0), (2, 3, 4)
_TOLERANCE: Final = 1e-4  # absolute; a GPU may pick another kernel for other sizes, a wrong row is off by about 1


class ProbeFailure(Exception):
    """The graph does not do in place what it does on copies; says which pool and rows."""


class Probed(Protocol):
    """A graph bound to the real pools that can also be run on copies."""

    spec: GraphSpec
    updated: dict[str, str]

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run on the real pools."""

    def run_apart(self, inputs: Mapping[str, Array], pools: Mapping[str, Array]) -> dict[str, Array]:
        """Run on copies; give the updated pools by their input's name."""


def probe_graph(graph: Probed, read_pool: Callable[[str], Array], write_pool: Callable[[str, Array], None]) -> None:
    """Prove the graph, leaving all pools zero as they were found.

    Raises:
        ProbeFailure: It reads or writes a row that it should not, or does not update in place.
    """
    inputs, names = _inputs(graph.spec), _pool_inputs(graph.spec)
    if not graph.updated:
        return
    before: dict[str, Array] = {}
    generator = np.random.default_rng(0)
    for name in names:
        pool = read_pool(name)
        pool[2:NUM_ROWS] = generator.standard_normal(pool[2:NUM_ROWS].shape)
        write_pool(name, pool)
        before[name] = pool
    expected = graph.run_apart(inputs, {name: pool[:NUM_ROWS] for name, pool in before.items()})
    graph.run(inputs, ())
    for name in names:
        _compare(name, before[name], expected.get(name), read_pool(name))
        write_pool(name, np.zeros_like(before[name]))


def _compare(name: str, before: Array, expected: Array | None, got: Array) -> None:
    written = np.array(_WRITE if expected is not None else (), dtype=np.int64)
    untouched = np.delete(np.arange(len(before)), written)
    changed = untouched[(before[untouched] != got[untouched]).reshape(len(untouched), -1).any(axis=1)]
    if len(changed):
        raise ProbeFailure(f"{name}: expected only rows {written.tolist()} to change, got row {changed[0]} too")
    if expected is None:
        return
    if np.array_equal(expected[written], before[written]):
        raise ProbeFailure(f"{name}: expected the graph to change rows {written.tolist()}, got them as before")
    if not np.allclose(expected[written], got[written], rtol=0, atol=_TOLERANCE):
        worst = float(np.abs(expected[written] - got[written]).max())
        raise ProbeFailure(f"{name}: expected in place the same as on a copy, got a difference of {worst:g}")


def _pool_inputs(spec: GraphSpec) -> list[str]:
    return [tensor.name for tensor in spec.inputs if tensor.shape and tensor.shape[0] in ("N", "P")]


def _inputs(spec: GraphSpec) -> dict[str, Array]:
    """Three rows of the shortest input there is."""
    inputs: dict[str, Array] = {}
    pools = set(_pool_inputs(spec))
    for tensor in spec.inputs:
        if tensor.name in pools:
            continue
        shape = [{"B": len(_WRITE)}.get(d, 1) if isinstance(d, str) else d for d in tensor.shape]
        inputs[tensor.name] = np.full(shape, "lengths" in tensor.name, dtype=tensor.dtype)
    for name, rows in (("read_slots", _READ), ("write_slots", _WRITE)):
        if name in inputs:
            inputs[name] = np.array(rows, dtype=np.int64)
    if "source_rows" in inputs:
        inputs["source_rows"] = np.array(_WRITE, dtype=np.int64).reshape(-1, 1)
    return inputs
