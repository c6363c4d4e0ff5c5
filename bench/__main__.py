"""Steps/s of the service beside raw ONNX Runtime in process: same model, same machine, same run, alternating.

    python -m bench [--seconds 4] [--rounds 3] [--threads N] [--json FILE]

One step a message, closed loop, one session to 256. The load generator shares the machine with the service; its CPU
share is printed. Two sessions of every run are checked step by step against the runtime alone.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import step_model
from bench.ceiling import Ceiling
from bench.server import serving

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which is when it counts
import onnxruntime

SESSIONS = (1, 16, 64, 256)


@dataclass(frozen=True)
class Row:
    """Medians over the rounds for one number of sessions. Rates in steps/s, latencies of a message in ms."""

    sessions: int
    raw_steps_per_s: float
    service_steps_per_s: float
    ratio: float
    p50_ms: float
    p99_ms: float
    raw_p50_ms: float
    generator_cpu: float


def quantile(ordered: list[float], q: float) -> float:
    """The q-quantile of ascending values (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def load(address: str, sessions: int, seconds: float, vocabulary: int) -> dict[str, object]:
    """Run the load generator in its own process."""
    arguments = [address, step_model.NAME, sessions, seconds, 1, 1, vocabulary]
    command = [sys.executable, "-m", "bench.load", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 4 + 60, check=False)
    if done.returncode:
        raise SystemExit(f"bench: the load generator failed: {done.stderr.strip()[-500:]}")
    return dict(json.loads(done.stdout))


def check(ceiling: Ceiling, result: dict[str, object]) -> None:
    """Compare the answers of the checked sessions with the runtime alone.

    Raises:
        SystemExit: One answer differs.
    """
    checked = result["checked"]
    assert isinstance(checked, dict)
    for session, got in checked.items():
        expected = ceiling.answers(int(session), len(got))
        if got != expected:
            at = next(i for i, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1])
            raise SystemExit(f"bench: session {session} step {at}: expected token {expected[at]}, got {got[at]}")


def measure(seconds: float, rounds: int, threads: int, console: Console) -> list[Row]:
    """All rounds, ceiling and service in turn; see the module docstring."""
    with tempfile.TemporaryDirectory(prefix="carryover-bench-") as folder:
        repository = Path(folder) / "repository"
        bundle = step_model.publish(repository)
        ceiling = Ceiling.open(bundle, threads, slots=2 + max(SESSIONS))
        rows: list[Row] = []
        with serving(repository, threads, Path(folder) / "server.log", num_slots=2 + 2 * max(SESSIONS)) as address:
            for sessions in SESSIONS:
                raw: list[float] = []
                raw_p50: list[float] = []
                service: list[dict[str, object]] = []
                for number in range(rounds):
                    console.print(f"{sessions} sessions, round {number + 1} of {rounds}", style="dim")
                    rate, times = ceiling.steps_per_s(sessions, seconds)
                    raw.append(rate)
                    raw_p50.append(statistics.median(times))
                    service.append(load(address, sessions, seconds, ceiling.vocabulary))
                    check(ceiling, service[-1])
                rows.append(_row(sessions, raw, raw_p50, service))
        return rows


def _row(sessions: int, raw: list[float], raw_p50: list[float], service: list[dict[str, object]]) -> Row:
    rates = [float(str(result["steps_per_s"])) for result in service]
    latencies = [result["latencies_ms"] for result in service]
    p50 = [quantile(values, 0.50) for values in latencies if isinstance(values, list)]
    p99 = [quantile(values, 0.99) for values in latencies if isinstance(values, list)]
    return Row(
        sessions,
        statistics.median(raw),
        statistics.median(rates),
        statistics.median(rate / ceiling for rate, ceiling in zip(rates, raw, strict=True)),
        statistics.median(p50),
        statistics.median(p99),
        statistics.median(raw_p50),
        statistics.median(float(str(result["cpu_share"])) for result in service),
    )


def main() -> None:
    """Measure and print; see the module docstring."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement, in seconds")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pair is measured; medians are printed")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="intra-op threads, here and in the service"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    console = Console()
    rows = measure(options.seconds, options.rounds, options.threads, console)
    cores = f"{platform.machine()}, {os.cpu_count()} cores"
    machine = f"{cores}, onnxruntime {onnxruntime.__version__}, {options.threads} threads"
    table = Table(title=f"Session steps: raw ONNX Runtime in process, and the service over gRPC ({machine})")
    columns = (
        "sessions",
        "raw steps/s",
        "service steps/s",
        "ratio",
        "p50 ms",
        "p99 ms",
        "raw step p50 ms",
        "generator CPU",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row.sessions),
            f"{row.raw_steps_per_s:,.0f}",
            f"{row.service_steps_per_s:,.0f}",
            f"{row.ratio:.2f}",
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.raw_p50_ms:.2f}",
            f"{row.generator_cpu:.2f}",
        )
    console.print(table)
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
