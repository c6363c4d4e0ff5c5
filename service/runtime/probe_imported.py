"""The proof of `service.runtime.probe` for a model that came from elsewhere, on states that such a model can have.

Random states could be impossible ones (an integer state may be a position), so those used here are what the model
itself makes of its initial state. What it does not change shows nothing, and needs no proof.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest
from service.runtime.likely import likely_batch
from service.runtime.probe import (
    BYSTANDER,
    NUM_ROWS,
    SCRATCH,
    Probed,
    ProbedPools,
    ProbeFailure,
    changed_rows,
    poison,
    run_poisoned,
)

Array = npt.NDArray[Any]
_FIRST: Final = 2  # row that is not reserved
# Reads and writes of a turn. Four rows where there may be as many, a batch that is not padded: padded it might be
# computed in another order.
_ALONE: Final = (((3,), (2,)), ((4,), (3,)))
_TOGETHER: Final = (((3, 2, 0, 0), (2, 3, 4, SCRATCH)), ((4, 3, 0, 0), (3, 4, 2, SCRATCH)))


def probe_imported(graph: Probed, manifest: Manifest, pools: ProbedPools, num_turns: int = 1) -> None:
    """Prove the graph, leaving all pools as they were found.

    Args:
        graph: To be proved.
        manifest: Of its bundle.
        pools: That it is bound to.
        num_turns: 1 or 2 runs.

    Raises:
        ProbeFailure: It reads or writes a row that it should not, or does not update in place.
    """
    if not graph.updated:
        return
    assert manifest.imported is not None
    generator = np.random.default_rng(0)
    most = manifest.imported.max_rows
    turns = _ALONE if most is not None and most < len(_TOGETHER[0][0]) else _TOGETHER

    found = {name: pools.whole(name) for name in graph.updated}
    states = {name: pool[:NUM_ROWS].copy() for name, pool in found.items()}
    for row in range(_FIRST, NUM_ROWS):  # a state of its own in each row
        for _ in range(row - 1):
            states |= graph.run_apart(likely_batch(manifest, (row,), (row,), generator), states)
    for reads, writes in turns[:num_turns]:
        inputs = likely_batch(manifest, reads, writes, generator)
        _probe(graph, pools, inputs, {name: rows.copy() for name, rows in states.items()}, list(writes))
    for name, pool in found.items():
        pools.replace(name, pool)


def _probe(
    graph: Probed, pools: ProbedPools, inputs: Mapping[str, Array], states: Mapping[str, Array], written: list[int]
) -> None:
    expected = graph.run_apart(inputs, states)
    before: dict[str, Array] = {}
    for name, rows in states.items():
        before[name] = pools.whole(name)
        before[name][:NUM_ROWS] = rows
        poison(before[name][BYSTANDER : BYSTANDER + 1])
        pools.replace(name, before[name])
    run_poisoned(graph, inputs)
    for name, pool in before.items():
        got = pools.whole(name)
        if changed := changed_rows(pool, got, written):
            raise ProbeFailure(f"{name}: expected only rows {written} to change, got row {changed[0]} too")
        for row in written:
            if row != SCRATCH and expected[name][row].tobytes() != got[row].tobytes():
                raise ProbeFailure(f"{name}: expected in place the same as on a copy, got another row {row}")
