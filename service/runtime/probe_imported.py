"""The proof of `service.runtime.probe` for a model that came from elsewhere, on states that such a model can have.

Random states could be impossible ones (an integer state may be a position), so those used here are what the model
itself makes of its initial state. What it does not change shows nothing, and needs no proof.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import GraphSpec, Manifest
from service.measuring.likely import likely_rows, shared_inputs
from service.runtime.probe import NUM_ROWS, ProbeFailure

Array = npt.NDArray[Any]
_FIRST: Final = 2  # row that is not reserved


class Probed(Protocol):
    """A graph bound to the real pools that can also be run on copies."""

    spec: GraphSpec
    updated: dict[str, str]

    def run(self, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
        """Run on the real pools."""

    def run_apart(self, inputs: Mapping[str, Array], pools: Mapping[str, Array]) -> dict[str, Array]:
        """Run on copies; give the updated pools by their input's name."""


def probe_imported(
    graph: Probed, manifest: Manifest, read_pool: Callable[[str], Array], write_pool: Callable[[str, Array], None]
) -> None:
    """Prove the graph, leaving all pools as they were found.

    Raises:
        ProbeFailure: It reads or writes a row that it should not, or does not update in place.
    """
    if not graph.updated:
        return
    assert manifest.imported is not None
    generator = np.random.default_rng(0)
    alone = manifest.imported.max_rows == 1

    def inputs(reads: tuple[int, ...], writes: tuple[int, ...]) -> dict[str, Array]:
        places = {"read_slots": np.array(reads, dtype=np.int64), "write_slots": np.array(writes, dtype=np.int64)}
        made = likely_rows(manifest, len(reads), generator)
        return {**made, **shared_inputs(manifest), **places}

    found = {name: read_pool(name) for name in graph.updated}
    pools = {name: pool[:NUM_ROWS].copy() for name, pool in found.items()}
    for row in range(_FIRST, NUM_ROWS):  # a state of its own in each row
        for _ in range(row - 1):
            pools |= graph.run_apart(inputs((row,), (row,)), pools)
    for name, rows in pools.items():
        pool = read_pool(name)
        pool[:NUM_ROWS] = rows
        write_pool(name, pool)
    before = {name: read_pool(name) for name in pools}
    step = inputs((3,), (2,)) if alone else inputs((3, 2, 0), (2, 3, 4))
    expected = graph.run_apart(step, pools)
    graph.run(step, ())
    written = step["write_slots"]
    for name, pool in before.items():
        got = read_pool(name)
        untouched = np.delete(np.arange(len(pool)), written)
        if changed := [row for row in untouched if pool[row].tobytes() != got[row].tobytes()]:
            raise ProbeFailure(f"{name}: expected only rows {written.tolist()} to change, got row {changed[0]} too")
        for row in written:
            if expected[name][row].tobytes() != got[row].tobytes():
                raise ProbeFailure(f"{name}: expected in place the same as on a copy, got another row {row}")
        write_pool(name, found[name])
