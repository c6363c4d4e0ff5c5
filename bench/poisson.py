"""Transduce under Poisson arrivals: step-level against request-level batching, latency against load.

Two servers of the same model, alternating: one lets requests join and leave at every decoder step, the other (setting
`batching=request`, kept for this comparison) takes a batch of requests to its end together. The capacity of each is
what a closed loop of many callers gets out of it; then both are given the same arrivals. Every answer is compared, bit
for bit, with the one that the request gets alone.
"""

import argparse
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
from rich.console import Console

from bench import transducer_model
from bench.drive import Result, drive, read_responses, write_messages
from bench.report import Plot, Report, Row, plain
from bench.server import Server, running
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1 import carryover_pb2_grpc as pb_grpc

METHOD = "/carryover.v1.Carryover/Transduce"
MODES = ("step", "request")


@dataclass(frozen=True)
class Load:
    """What both servers are asked, and what is right.

    Args:
        templates: The requests.
        right: The last message that each gets alone.
    """

    templates: Path
    right: list[bytes]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `poisson`."""
    parser.add_argument("--requests", type=int, default=400, help="different ones, sent over and over")
    parser.add_argument("--callers", type=int, default=128, help="of the closed loop that finds the capacity")
    parser.add_argument("--beam", type=int, default=1, help="beam size of every request")
    parser.add_argument(
        "--loads", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.9], help="fractions of the capacity of each mode"
    )
    parser.add_argument("--runners", type=int, default=os.cpu_count() or 1)


def alone(server: Server, templates: Path, requests: Sequence[pb.TransduceRequest]) -> Load:
    """Ask one request at a time."""
    right = []
    with grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.CarryoverStub(channel)
        for request in requests:
            *_, last = stub.Transduce(request)
            right.append(last.SerializeToString())
    write_messages(templates, (request.SerializeToString() for request in requests))
    return Load(templates, right)


def ask(server: Server, load: Load, options: argparse.Namespace, **how: object) -> Result:
    """Drive a server and compare every answer.

    Raises:
        SystemExit: An answer differs from the one alone, or a call failed.
    """
    responses = load.templates.with_suffix(".responses")
    result = drive(
        "grpc",
        address=server.address,
        method=METHOD,
        templates=load.templates,
        connections=4,
        keep=10_000_000,
        responses=responses,
        seconds=options.seconds,
        warmup=options.warmup,
        **how,
    )
    if result["failures"] or result["unanswered"]:
        raise SystemExit(f"bench: expected answers to all calls, got {result['failures']}: {result['first_failure']}")
    kept = read_responses(responses)
    for response in kept:
        if response.code == 0 and response.parts[-1] != load.right[response.message]:
            raise SystemExit(f"bench: request {response.message}: its answer in company is not the one alone")
    result["compared"] = sum(response.code == 0 for response in kept)
    return result


def rates(capacities: dict[str, float], loads: Sequence[float]) -> list[float]:
    """Arrivals a second that both servers are given, ascending; those of one mode are known to the other too."""
    return sorted({round(capacity * load, 1) for capacity in capacities.values() for load in loads})


def measure(options: argparse.Namespace, console: Console) -> Report:
    """All rounds; see the module docstring."""
    requests = list(transducer_model.requests(options.requests, beam_size=options.beam))
    found: dict[str, list[float]] = defaultdict(list)
    results: dict[tuple[float, str], list[Result]] = defaultdict(list)
    compared = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-")))
        transducer_model.publish(folder / "repository")
        servers = {
            mode: stack.enter_context(
                running(folder / "repository", folder / f"{mode}.log", runners=options.runners, batching=mode)
            )
            for mode in MODES
        }
        load = alone(servers["step"], folder / "requests", requests)
        for _ in range(options.rounds):
            for mode, server in servers.items():
                console.print(f"capacity, {mode}-level", style="dim")
                result = ask(server, load, options, callers=options.callers)
                found[mode].append(result["phases"][0]["answered_per_s"])
                compared += result["compared"]
        capacities = {mode: statistics.median(many) for mode, many in found.items()}
        chosen = rates(capacities, options.loads)
        for number in range(options.rounds):
            for rate in chosen:
                for mode, server in servers.items():
                    console.print(f"round {number + 1} of {options.rounds}: {rate:.0f}/s, {mode}-level", style="dim")
                    result = ask(server, load, options, rate=rate, seed=number + 1)
                    compared += result["compared"]
                    results[rate, mode].append(result)
    rows = [_summarise(rate, mode, capacities, results[rate, mode]) for rate in chosen for mode in MODES]
    return Report(
        "poisson",
        "Transduce under Poisson arrivals: step-level against request-level batching",
        rows,
        [
            f"capacity, closed loop of {options.callers}: step-level {capacities['step']:.0f}/s, request-level "
            f"{capacities['request']:.0f}/s, ratio {capacities['step'] / capacities['request']:.2f}",
            f"{compared} answers equal to those alone, bit for bit; {options.rounds} rounds, medians",
        ],
        {"options": plain(options), "capacities": capacities},
        [_plot(rows)],
    )


def _summarise(rate: float, mode: str, capacities: dict[str, float], results: Sequence[Result]) -> Row:
    phases = [result["phases"][0] for result in results]
    return {
        "arrivals/s": rate,
        "batching": mode,
        "of its capacity": rate / capacities[mode],
        "of request-level's": rate / capacities["request"],
        "answered/s": statistics.median(phase["answered_per_s"] for phase in phases),
        "refused": sum(phase["refused"] for phase in phases),
        "first p50 ms": statistics.median(phase["first_ms"]["p50"] for phase in phases),
        "p50 ms": statistics.median(phase["latency_ms"]["p50"] for phase in phases),
        "p99 ms": statistics.median(phase["latency_ms"]["p99"] for phase in phases),
        "generator CPU": statistics.median(phase["cpu_share"] for phase in phases),
    }


def _plot(rows: Sequence[Row]) -> Plot:
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        for name in ("p50", "p99"):
            lines[f"{row['batching']}-level, {name}"].append(
                (float(row["arrivals/s"] or 0), float(row[f"{name} ms"] or 0))
            )
    return Plot("poisson", "Transduce under Poisson arrivals", "arrivals/s", "latency in ms", lines, log_y=True)
