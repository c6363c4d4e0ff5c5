"""What became of the requests of one version of a model, and what ran for them.

Counts of requests are taken here, those of runs by the engine. All of them only ever grow, until a version is unloaded:
one that is loaded again may begin at 0. What an engine runs for sequences that it still has once another bundle has
taken its version is not counted.
"""

import time

from service.engine.interface import GraphRuns, RunStats

NS_PER_S = 1_000_000_000


class Statistics:
    """Counts the requests of one version of a model.

    Attributes:
        num_rows: Rows that were run for requests that succeeded: steps of sequences, or rows of batches.
        last_ms: When the last one ended, in milliseconds since the epoch; 0: never.
    """

    __slots__ = ("_fail_ns", "_num_fail", "_num_success", "_ran_before", "_success_ns", "last_ms", "num_rows")

    def __init__(self) -> None:
        self._num_success = self._success_ns = self._num_fail = self._fail_ns = 0
        self._ran_before = RunStats((), 0, 0.0)
        self.num_rows = 0
        self.last_ms = 0

    def succeeded(self, num_rows: int, took_ns: int) -> None:
        """Count a request that was answered."""
        self._num_success += 1
        self._success_ns += took_ns
        self.num_rows += num_rows
        self.last_ms = time.time_ns() // 1_000_000

    def failed(self, took_ns: int) -> None:
        """Count a request that was refused by the engine, failed or was cancelled."""
        self._num_fail += 1
        self._fail_ns += took_ns
        self.last_ms = time.time_ns() // 1_000_000

    def ran_before(self, ran: RunStats) -> None:
        """Keep what an engine has run that is not asked any more: another bundle has taken the version."""
        self._ran_before = self._with_earlier(ran)

    def _with_earlier(self, ran: RunStats) -> RunStats:
        earlier = self._ran_before
        if not earlier.num_waits and not earlier.runs:
            return ran
        counts: dict[tuple[str, int], tuple[int, float]] = {}
        for graph, rows, num_runs, seconds in (*earlier.runs, *ran.runs):
            before = counts.get((graph, rows), (0, 0.0))
            counts[graph, rows] = before[0] + num_runs, before[1] + seconds
        runs = tuple(GraphRuns(*key, *count) for key, count in sorted(counts.items()))
        return RunStats(runs, earlier.num_waits + ran.num_waits, earlier.wait_s + ran.wait_s)

    def describe(self, name: str, version: str, ran: RunStats) -> dict[str, object]:
        """Make the protocol's ModelStatistics, by the names of its fields.

        Inputs are gathered and outputs handed out within a run, so all of its time counts as `compute_infer`.
        """
        ran = self._with_earlier(ran)
        compute_ns = sum(round(runs.seconds * NS_PER_S) for runs in ran.runs)
        batches: dict[int, tuple[int, int]] = {}
        for runs in ran.runs:
            count, ns = batches.get(runs.rows, (0, 0))
            batches[runs.rows] = count + runs.num_runs, ns + round(runs.seconds * NS_PER_S)
        num_runs = sum(runs.num_runs for runs in ran.runs)
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_ms,
            "inference_count": self.num_rows,
            "execution_count": num_runs,
            "inference_stats": {
                "success": _duration(self._num_success, self._success_ns),
                "fail": _duration(self._num_fail, self._fail_ns),
                "queue": _duration(ran.num_waits, round(ran.wait_s * NS_PER_S)),
                "compute_input": _duration(num_runs, 0),
                "compute_infer": _duration(num_runs, compute_ns),
                "compute_output": _duration(num_runs, 0),
                "cache_hit": _duration(0, 0),
                "cache_miss": _duration(0, 0),
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": _duration(count, 0),
                    "compute_infer": _duration(count, ns),
                    "compute_output": _duration(count, 0),
                }
                for rows, (count, ns) in sorted(batches.items())
            ],
        }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
