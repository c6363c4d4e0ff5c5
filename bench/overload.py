"""Overload: session steps at 0.8 of the capacity, at three times it, and at 0.8 again, open loop.

The capacity is what a closed loop gets out of the service. Then messages arrive as a Poisson process whatever becomes
of them. Shown for each part: latency of what was accepted, goodput, how quickly the rest is refused, the server's
memory; and how long after the flood latency is back. Answers of some sessions are compared with the raw runtime's.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import step_model
from bench.ceiling import Ceiling
from bench.drive import Result, drive
from bench.report import Plot, Report, Row, plain
from bench.server import Server, running
from bench.steps import Checker
from bench.tokens import FIRST_WORD

BIN_S = 0.1
PARTS = ("before", "flood", "after")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `overload`."""
    parser.add_argument("--sessions", type=int, default=256)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="steps a message")
    parser.add_argument("--queue-ms", type=float, default=40.0, help="the service's max_queue_delay_ms")
    parser.add_argument("--callers", type=int, default=128, help="sessions of the closed loop that finds the capacity")
    parser.add_argument("--load", type=float, default=0.8, help="of the capacity, before and after")
    parser.add_argument("--flood", type=float, default=3.0, help="of the capacity")
    parser.add_argument("--check", type=int, default=8, help="sessions whose first steps are compared")
    parser.add_argument("--check-steps", type=int, default=256)
    parser.add_argument("--runners", type=int, default=os.cpu_count() or 1)


@contextmanager
def watching(server: Server) -> Iterator[list[tuple[float, int]]]:
    """Note the server's resident memory every tenth of a second: (monotonic seconds, bytes)."""
    seen: list[tuple[float, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(BIN_S):
            seen.append((time.monotonic(), server.rss_bytes()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def seconds_until_back(bins: Sequence[Mapping[str, Any]], bin_s: float, flood_end_s: float, normal_ms: float) -> float:
    """Seconds from the end of the flood until latency is back for good.

    Args:
        bins: Of the whole run, latencies by when messages were meant to be sent.
        bin_s: Length of one.
        flood_end_s: When the flood ended.
        normal_ms: A bin whose p90 is above it is not back.

    Returns:
        Seconds, a multiple of `bin_s`; 0 when no bin after the flood is late.
    """
    first = round(flood_end_s / bin_s)
    late = [i for i in range(first, len(bins)) if bins[i]["latency_ms"]["p90"] > normal_ms]
    return (late[-1] + 1 - first) * bin_s if late else 0.0


def measure(options: argparse.Namespace, console: Console) -> Report:
    """Find the capacity, then flood; see the module docstring."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-")))
        bundle = step_model.publish(folder / "repository")
        checker = Checker(Ceiling.open(bundle, 1, slots=3))
        # Sessions hold three quarters of the slots: all have one, so that what is measured is the flood alone.
        slots = 2 + 2 * max(options.sessions, options.callers)
        server = stack.enter_context(
            running(
                folder / "repository",
                folder / "server.log",
                runners=options.runners,
                num_slots=slots,
                max_queue_delay_ms=options.queue_ms,
            )
        )
        common: dict[str, object] = {"address": server.address, "model": step_model.NAME, "streams": options.streams}
        common |= {
            "connections": min(4, options.streams),
            "vocabulary": step_model.VOCABULARY,
            "first_token": FIRST_WORD,
        }
        common["steps"] = options.steps
        common["coalesce"] = 0  # arrivals come one by one, so the capacity must be that of one command a message too
        common |= {"check": options.check, "check_steps": options.check_steps, "warmup": options.warmup}
        console.print("capacity", style="dim")
        closed = drive("sessions", 600.0, sessions=options.callers, seconds=options.seconds, **common)
        checker.check(closed)
        capacity = closed["phases"][0]["answered_per_s"]
        rates = [capacity * options.load, capacity * options.flood, capacity * options.load]
        phases = ",".join(f"{rate:.1f}:{options.seconds}" for rate in rates)
        console.print(f"capacity {capacity:.0f}/s; now {phases}", style="dim", highlight=False)
        with watching(server) as memory:
            begin = time.monotonic()
            flooded = drive("sessions", 600.0, sessions=options.sessions, phases=phases, bin=BIN_S, **common)
        compared = checker.check(flooded)
    return _report(options, capacity, flooded, [(when - begin, size) for when, size in memory], compared)


def _report(
    options: argparse.Namespace, capacity: float, result: Result, memory: Sequence[tuple[float, int]], compared: int
) -> Report:
    before = result["phases"][0]["latency_ms"]
    flood_end_s = result["warmup_s"] + 2 * options.seconds
    back_s = seconds_until_back(result["bins"], result["bin_s"], flood_end_s, 2 * before["p99"])
    rows = [_row(part, i, result, capacity, memory, options) for i, part in enumerate(PARTS)]
    flood = result["phases"][1]
    notes = [
        f"capacity, closed loop of {options.callers} sessions: {capacity:,.0f} steps/s",
        f"p99 of what was accepted in the flood: {flood['latency_ms']['p99'] / before['p99']:.2f} x that before",
        f"goodput in the flood: {flood['answered_per_s'] / capacity:.2f} of the capacity",
        f"latency is back (p90 of each {BIN_S} s at most twice the p99 before) {back_s:.1f} s after the flood",
        f"{result['unanswered']} messages never answered; failures {result['failures'] or 'none'}; "
        f"{compared} answers equal to the raw runtime's",
    ]
    lines = {
        "p50": [(i * BIN_S, one["latency_ms"]["p50"]) for i, one in enumerate(result["bins"])],
        "p99": [(i * BIN_S, one["latency_ms"]["p99"]) for i, one in enumerate(result["bins"])],
    }
    counts = {
        kind: [(i * BIN_S, one[kind] / BIN_S) for i, one in enumerate(result["bins"])]
        for kind in ("offered", "answered", "refused")
    }
    return Report(
        "overload",
        f"Session steps, open loop: {options.load} of the capacity, {options.flood} times it, {options.load} again",
        rows,
        notes,
        {"options": plain(options), "capacity": capacity, "back_s": back_s, "result": result, "memory": list(memory)},
        [
            Plot("overload-latency", "Latency through a flood", "seconds", "ms", lines, log_y=True),
            Plot("overload-rates", "Rates through a flood", "seconds", "messages/s", counts),
            Plot(
                "overload-memory",
                "Memory through a flood",
                "seconds",
                "MiB",
                {"RSS": [(t, b / 2**20) for t, b in memory]},
            ),
        ],
    )


def _row(
    part: str,
    index: int,
    result: Result,
    capacity: float,
    memory: Sequence[tuple[float, int]],
    options: argparse.Namespace,
) -> Row:
    phase = result["phases"][index]
    begin = result["warmup_s"] + index * options.seconds
    resident = [size for when, size in memory if begin <= when < begin + options.seconds]
    return {
        "part": part,
        "arrivals/s": phase["offered"] / phase["seconds"],
        "answered/s": phase["answered_per_s"],
        "of capacity": phase["answered_per_s"] / capacity,
        "p50 ms": phase["latency_ms"]["p50"],
        "p99 ms": phase["latency_ms"]["p99"],
        "refused/s": phase["refused"] / phase["seconds"],
        "refusal p50 ms": phase["refusal_ms"]["p50"] if phase["refused"] else None,
        "refusal p99 ms": phase["refusal_ms"]["p99"] if phase["refused"] else None,
        "RSS MiB, most": max(resident) / 2**20 if resident else None,
        "generator CPU": phase["cpu_share"],
    }
