"""How many rows of an imported model may share a run on this machine, where that is fewer than its import found.

The import ran the model on another machine perhaps, in small batches, and nobody sees all that a graph can do. What is
found here holds as if the import had found it: `max_rows` of the manifest that the runner goes by.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from export.manifest import Manifest, own_tensors
from service.engine.slots import INITIAL_SLOT, SCRATCH_SLOT
from service.measuring.invariance import probe_invariance
from service.measuring.rehearsal import PooledRunner
from service.measuring.timing import TimedRunner
from service.measuring.variance import Variance
from service.runtime.errors import first_line
from service.runtime.likely import likely_batch

_MOST: Final = 4096  # rows that are tried


class WarnedRunner(PooledRunner, Protocol):
    """What is needed of `service.runtime.runner.Runner`."""

    warnings: tuple[str, ...]


def bounded(manifest: Manifest, max_rows: int) -> Manifest:
    """The manifest of an imported model of which at most so many rows share a run."""
    assert manifest.imported is not None
    most = min(max_rows, manifest.imported.max_rows or max_rows)
    return manifest.model_copy(update={"imported": manifest.imported.model_copy(update={"max_rows": most})})


def most_rows(runner: TimedRunner) -> int:
    """Find the largest batch of an imported model that runs, of those up to 4,096 rows.

    It is taken for granted that what is larger than one that fails does, too.

    Args:
        runner: In use by nobody else. What is run reads the initial state and writes scratch rows.

    Raises:
        Exception: A single row does not run, either.
    """
    _run(runner, 1)
    works, fails = 1, 2
    while fails <= _MOST and _runs(runner, fails):
        works, fails = fails, 2 * fails
    while fails <= _MOST and fails - works > 1:
        middle = (works + fails) // 2
        works, fails = (middle, fails) if _runs(runner, middle) else (works, middle)
    return works


def bound(runner: WarnedRunner, max_rows: int, why: str) -> None:
    """Let at most so many rows share a run from now on, and have the operator told why."""
    runner.manifest = bounded(runner.manifest, max_rows)
    runner.warnings += (f"runs at most {max_rows} row{'s' if max_rows > 1 else ''} at a time, as {why}",)


def probe_company(
    runner: WarnedRunner, sizes: Sequence[int], num_ids: Mapping[str, int], tf32: bool = False
) -> tuple[Variance, ...]:
    """Prove that answers do not depend on the batch; where rows of an imported model meet, have them run alone.

    Args:
        runner: As of `probe_invariance`; see `bound` for what becomes of it if rows meet or a batch fails.
        sizes: As of `probe_invariance`; those of more rows than the model takes are left out.
        num_ids: As of `probe_invariance`.
        tf32: As of `probe_invariance`.

    Returns:
        What does not hold of how the model is run from now on.

    Raises:
        Exception: A run fails, and not only of several rows of an imported model.
    """
    imported = runner.manifest.imported
    if imported is not None and imported.max_rows is not None:
        sizes = [size for size in sizes if size <= imported.max_rows]
    if imported is None or imported.max_rows == 1:
        return probe_invariance(runner, sizes, num_ids, tf32=tf32)
    try:
        found = probe_invariance(runner, sizes, num_ids, tf32=tf32)
    except Exception as error:
        why = f"some batches of it fail ({first_line(error)})"
    else:
        far = [variance for variance in found if variance.is_far]
        if not far:
            return found
        why = f"rows influence each other ({far[0]})"
    found = probe_invariance(runner, (1,), num_ids, tf32=tf32)
    bound(runner, 1, why)
    return found


def _runs(runner: TimedRunner, num_rows: int) -> bool:
    try:
        _run(runner, num_rows)
    except Exception:
        return False
    return True


def _run(runner: TimedRunner, num_rows: int) -> None:
    manifest = runner.manifest
    (kind,) = manifest.graphs
    reads, writes = [INITIAL_SLOT] * num_rows, [SCRATCH_SLOT] * num_rows
    inputs = likely_batch(manifest, reads, writes, np.random.default_rng(0))
    runner.run(kind, inputs, tuple(own_tensors(manifest).outputs))
