"""What an engine has run, counted for who asks for statistics."""

from collections.abc import Sequence

from service.engine.interface import GraphRuns, RunStats


class Ran:
    """Counts runs by graph and rows. Not thread-safe: the engine's lock guards it."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], tuple[int, float]] = {}
        self._num_waits, self._wait_s = 0, 0.0

    def note(self, graph: str, rows: int, took_s: float, waits_s: Sequence[float]) -> None:
        """Count a run.

        Args:
            graph: Which graph.
            rows: Of the batch.
            took_s: Seconds.
            waits_s: For how long each work in it was ready before.
        """
        count, seconds = self._runs.get((graph, rows), (0, 0.0))
        self._runs[graph, rows] = count + 1, seconds + took_s
        self._num_waits += len(waits_s)
        self._wait_s += sum(waits_s)

    def snapshot(self) -> RunStats:
        """The counts of now."""
        runs = [GraphRuns(graph, rows, *counted) for (graph, rows), counted in sorted(self._runs.items())]
        return RunStats(tuple(runs), self._num_waits, self._wait_s)
