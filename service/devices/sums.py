"""Several engines as one, in numbers."""

from collections.abc import Sequence
from dataclasses import asdict

from service.engine.interface import EngineStats, GraphRuns, RunStats


def sum_stats(parts: Sequence[EngineStats], refused: int) -> EngineStats:
    """Add up.

    Args:
        parts: Of each engine, at least one.
        refused: Requests that were refused besides, less those that one engine refused and another one took.
    """
    rows = [asdict(part) for part in parts]
    sums = {name: sum(row[name] for row in rows) for name in rows[0]}
    sums["requests_refused"] += refused
    return EngineStats(**sums)


def sum_run_stats(parts: Sequence[RunStats]) -> RunStats:
    """Add up: runs of the same graph and rows are counted together, whichever engine ran them."""
    runs: dict[tuple[str, int], tuple[int, float]] = {}
    for part in parts:
        for graph, rows, num_runs, seconds in part.runs:
            before_runs, before_s = runs.get((graph, rows), (0, 0.0))
            runs[graph, rows] = (before_runs + num_runs, before_s + seconds)
    return RunStats(
        tuple(GraphRuns(graph, rows, *counted) for (graph, rows), counted in sorted(runs.items())),
        sum(part.num_waits for part in parts),
        sum(part.wait_s for part in parts),
    )
