"""Session steps: the service beside raw ONNX Runtime in process, closed loop.

One table for each precision: sessions, steps a message, streams that carry them. The ceiling is what as many one-thread
runners as cores reach side by side on one pool at B=64, measured again before each run of the service.
"""

import argparse
import itertools
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench import step_model
from bench.ceiling import Ceiling
from bench.drive import Result, drive
from bench.report import Plot, Report, Row, plain
from bench.server import Server, running
from bench.tokens import FIRST_WORD
from export.manifest import Precision

CEILING_ROWS = 64


class Shape(NamedTuple):
    """What is asked of the service."""

    precision: Precision
    sessions: int
    steps: int  # a message
    streams: int


@dataclass(frozen=True)
class Sample:
    """One measurement of a shape, and of its ceiling just before."""

    result: Result
    ceiling: float  # steps/s
    raw_p50_ms: float  # one step of one session, one thread
    server_cpu: float  # share of a core


class Checker:
    """Compares answers with the raw runtime, one session alone."""

    def __init__(self, ceiling: Ceiling) -> None:
        self._answers = cache(lambda inputs: ceiling.answers_to(inputs))

    def check(self, result: Result) -> int:
        """Compare what a run kept; returns how many steps were compared.

        Raises:
            SystemExit: One answer differs, or there was none.
        """
        compared = 0
        for kept in result["checked"]:
            expected = self._answers(tuple(kept["inputs"]))
            for step, (got, right) in enumerate(zip(kept["answers"], expected, strict=True)):
                if got != right:
                    raise SystemExit(f"bench: session {kept['session']} step {step}: expected token {right}, got {got}")
            compared += len(expected)
        if not compared:
            raise SystemExit("bench: expected answers to check, got none")
        return compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `steps`."""
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 8], help="steps a message")
    parser.add_argument(
        "--streams", type=int, default=8, help="streams that carry all sessions (and, second, one each)"
    )
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"])
    parser.add_argument("--coalesce", type=int, choices=(0, 1), default=1, help="0: one command a message, always")
    parser.add_argument("--check", type=int, default=4, help="sessions whose first steps are compared")
    parser.add_argument("--check-steps", type=int, default=64)
    parser.add_argument("--runners", type=int, default=os.cpu_count() or 1, help="of the ceiling and of the service")


def shapes(options: argparse.Namespace) -> list[Shape]:
    """All that is measured."""
    chosen = []
    for precision, sessions, steps in itertools.product(options.precisions, options.sessions, options.steps):
        for streams in sorted({min(options.streams, sessions), sessions}):
            chosen.append(Shape(precision, sessions, steps, streams))
    return chosen


def sample(shape: Shape, server: Server, ceiling: Ceiling, options: argparse.Namespace) -> Sample:
    """Measure the ceiling, then the service."""
    rate, _ = ceiling.steps_per_s(CEILING_ROWS, options.seconds / 2, options.runners)
    _, alone = ceiling.steps_per_s(1, min(0.3, options.seconds)) if shape.sessions == 1 else (0, [0.0])
    cpu_s = server.cpu_s()
    result = drive(
        "sessions",
        address=server.address,
        model=step_model.name_of(shape.precision),
        sessions=shape.sessions,
        streams=shape.streams,
        connections=min(shape.streams, 4),
        steps=shape.steps,
        coalesce=options.coalesce,
        vocabulary=ceiling.vocabulary,
        first_token=FIRST_WORD,
        seconds=options.seconds,
        warmup=options.warmup,
        check=options.check,
        check_steps=options.check_steps,
    )
    spent = (server.cpu_s() - cpu_s) / (options.seconds + options.warmup)
    return Sample(result, rate, statistics.median(alone), spent)


def summarise(shape: Shape, samples: Sequence[Sample], fp32: float | None) -> Row:
    """Medians over the rounds."""

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    phases = [one.result["phases"][0] for one in samples]
    rate = median([phase["units_per_s"] for phase in phases])
    return {
        "precision": shape.precision,
        "sessions": shape.sessions,
        "steps": shape.steps,
        "streams": shape.streams,
        "steps/s": rate,
        "ceiling": median([one.ceiling for one in samples]),
        "ratio": median([phase["units_per_s"] / one.ceiling for phase, one in zip(phases, samples, strict=True)]),
        "x fp32": rate / fp32 if fp32 else None,
        "p50 ms": median([phase["latency_ms"]["p50"] for phase in phases]),
        "p99 ms": median([phase["latency_ms"]["p99"] for phase in phases]),
        "raw step ms": median([one.raw_p50_ms for one in samples]) or None,
        "worst/mean wait": median([one.result["fairness"]["ratio"] for one in samples]),
        "generator CPU": median([phase["cpu_share"] for phase in phases]),
        "server CPU": median([one.server_cpu for one in samples]),
    }


def measure(options: argparse.Namespace, console: Console) -> Report:
    """All rounds; see the module docstring."""
    samples: dict[Shape, list[Sample]] = defaultdict(list)
    chosen = shapes(options)
    compared = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-")))
        bundles = {one: step_model.publish(folder / "repository", one) for one in options.precisions}
        slots = 2 + CEILING_ROWS * options.runners
        ceilings = {one: Ceiling.open(bundle, 1, slots) for one, bundle in bundles.items()}
        checkers = {one: Checker(ceiling) for one, ceiling in ceilings.items()}
        settings = {"runners": options.runners, "num_slots": 2 + 2 * max(64, *options.sessions)}
        server = stack.enter_context(running(folder / "repository", folder / "server.log", **settings))
        for number, shape in itertools.product(range(options.rounds), chosen):
            console.print(f"round {number + 1} of {options.rounds}: {shape}", style="dim", highlight=False)
            one = sample(shape, server, ceilings[shape.precision], options)
            compared += checkers[shape.precision].check(one.result)
            samples[shape].append(one)
    rows: list[Row] = []
    for shape in chosen:
        other = samples.get(shape._replace(precision="fp32")) if shape.precision != "fp32" else None
        fp32 = statistics.median(one.result["phases"][0]["units_per_s"] for one in other) if other else None
        rows.append(summarise(shape, samples[shape], fp32))
    return Report(
        "steps",
        "Session steps, closed loop: the service over gRPC, and raw ONNX Runtime in process",
        rows,
        [f"{compared} answers equal to the raw runtime's, one session alone", f"{options.rounds} rounds, medians"],
        {
            "options": plain(options),
            "samples": [{**shape._asdict(), "rounds": [_figures(one) for one in samples[shape]]} for shape in chosen],
        },
        _plots(rows),
    )


def _plots(rows: Sequence[Row]) -> list[Plot]:
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        layout = "one stream a session" if row["streams"] == row["sessions"] != 1 else "few streams"
        label = f"{row['precision']}, {row['steps']} a message, {layout}"
        lines[label].append((float(row["sessions"] or 0), float(row["steps/s"] or 0)))
    return [Plot("steps", "Session steps, closed loop", "sessions", "steps/s", lines, log_x=True)]


def _figures(one: Sample) -> dict[str, object]:
    kept = ("phases", "fairness", "most_in_flight", "reads", "sends")
    return {"ceiling": one.ceiling, "server_cpu": one.server_cpu, **{name: one.result[name] for name in kept}}
