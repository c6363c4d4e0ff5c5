"""Tagging: the service beside raw ONNX Runtime, closed loop, one sentence a call.

Requests go as unary calls, and over a few bidirectional streams. The ceiling is raw ONNX Runtime with sentences of like
lengths batched beforehand, B=32, as many one-thread runners as cores. Every answer is compared with the raw runtime's,
one sentence alone.
"""

import argparse
import itertools
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench import tagging_model
from bench.drive import Result, drive, read_responses, write_messages
from bench.raw_tagging import RawTagger
from bench.report import Plot, Report, Row, plain
from bench.server import Server, running
from export.manifest import Precision
from protos.carryover.v1 import carryover_pb2 as pb

METHOD = "/carryover.v1.Carryover/Tag"
CEILING_ROWS = 32


class Shape(NamedTuple):
    """What is asked of the service."""

    precision: Precision
    callers: int
    wire: str  # unary or stream


class Target(NamedTuple):
    """One model, raw and served."""

    raw: RawTagger
    sentences: list[list[str]]
    right: list[list[str]]  # tags
    templates: Path


class Sample(NamedTuple):
    """One measurement, and its ceiling just before."""

    result: Result
    ceiling: float  # sentences/s
    compared: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tagging`."""
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"])
    parser.add_argument("--wires", nargs="+", choices=("unary", "stream"), default=["unary", "stream"])
    parser.add_argument("--streams", type=int, default=8, help="that carry all callers, where they share some")
    parser.add_argument("--sentences", type=int, default=1024, help="different ones, sent over and over")
    parser.add_argument("--runners", type=int, default=os.cpu_count() or 1, help="of the ceiling and of the service")


def prepare(folder: Path, precision: Precision, count: int) -> Target:
    """Publish the model and work out the right answers."""
    raw = RawTagger.open(tagging_model.publish(folder / "repository", precision))
    sentences = tagging_model.sentences(count)
    model = pb.ModelRef(name=tagging_model.name_of(precision))
    requests = (pb.TagRequest(model=model, sequences=[pb.TokenSequence(tokens=one)]) for one in sentences)
    templates = folder / f"{precision}.requests"
    write_messages(templates, (request.SerializeToString() for request in requests))
    return Target(raw, sentences, [raw.answer(one) for one in sentences], templates)


def check(responses: Path, right: Sequence[list[str]]) -> int:
    """Compare every answer; returns how many there were.

    Raises:
        SystemExit: One differs, or there was none.
    """
    kept = read_responses(responses)
    for response in kept:
        if response.code == 0:
            (sequence,) = pb.TagResponse.FromString(response.parts[0]).sequences
            if list(sequence.tags) != right[response.message]:
                expected = right[response.message]
                raise SystemExit(f"bench: sentence {response.message}: expected {expected}, got {list(sequence.tags)}")
    if not kept:
        raise SystemExit("bench: expected answers to check, got none")
    return len(kept)


def sample(target: Target, shape: Shape, server: Server, options: argparse.Namespace) -> Sample:
    """Measure the ceiling, then the service."""
    ceiling = target.raw.sentences_per_s(target.sentences, CEILING_ROWS, options.seconds / 2, options.runners)
    responses = target.templates.with_suffix(".responses")
    streams = min(options.streams, shape.callers)
    how: dict[str, object] = {"method": METHOD} if shape.wire == "unary" else {"streams": streams}
    result = drive(
        "grpc" if shape.wire == "unary" else "tags",
        address=server.address,
        templates=target.templates,
        callers=shape.callers,
        connections=min(streams, 4),
        keep=10_000_000,
        responses=responses,
        seconds=options.seconds,
        warmup=options.warmup,
        **how,
    )
    if result["failures"]:
        raise SystemExit(f"bench: expected no failures, got {result['failures']}: {result['first_failure']}")
    return Sample(result, ceiling, check(responses, target.right))


def measure(options: argparse.Namespace, console: Console) -> Report:
    """All rounds; see the module docstring."""
    samples: dict[Shape, list[Sample]] = defaultdict(list)
    chosen = [Shape(*one) for one in itertools.product(options.precisions, options.callers, options.wires)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-")))
        targets = {one: prepare(folder, one, options.sentences) for one in options.precisions}
        server = stack.enter_context(running(folder / "repository", folder / "server.log", runners=options.runners))
        for number, shape in itertools.product(range(options.rounds), chosen):
            console.print(f"round {number + 1} of {options.rounds}: {shape}", style="dim", highlight=False)
            samples[shape].append(sample(targets[shape.precision], shape, server, options))
    rows = [_summarise(shape, samples) for shape in chosen]
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row, shape in zip(rows, chosen, strict=True):
        lines[f"{shape.precision}, {shape.wire}"].append((shape.callers, float(row["sentences/s"] or 0)))
        if shape.wire == options.wires[0]:
            lines[f"{shape.precision}, raw"].append((shape.callers, float(row["ceiling"] or 0)))
    compared = sum(one.compared for many in samples.values() for one in many)
    rounds = [{**shape._asdict(), "rounds": [_figures(one) for one in samples[shape]]} for shape in chosen]
    return Report(
        "tagging",
        "Tagging, closed loop, one sentence a call: the service, and raw ONNX Runtime with like lengths together",
        rows,
        [f"{compared} answers equal to the raw runtime's, one sentence alone", f"{options.rounds} rounds, medians"],
        {"options": plain(options), "samples": rounds},
        [Plot("tagging", "Tagging, closed loop", "callers", "sentences/s", lines, log_x=True)],
    )


def _summarise(shape: Shape, samples: dict[Shape, list[Sample]]) -> Row:
    mine = samples[shape]
    phases = [one.result["phases"][0] for one in mine]
    rate = statistics.median(phase["answered_per_s"] for phase in phases)
    other = samples.get(shape._replace(precision="fp32")) if shape.precision != "fp32" else None
    fp32 = statistics.median(one.result["phases"][0]["answered_per_s"] for one in other) if other else None
    ratios = [phase["answered_per_s"] / one.ceiling for phase, one in zip(phases, mine, strict=True)]
    return {
        **shape._asdict(),
        "sentences/s": rate,
        "ceiling": statistics.median(one.ceiling for one in mine),
        "ratio": statistics.median(ratios),
        "x fp32": rate / fp32 if fp32 else None,
        "p50 ms": statistics.median(phase["latency_ms"]["p50"] for phase in phases),
        "p99 ms": statistics.median(phase["latency_ms"]["p99"] for phase in phases),
        "refused": sum(phase["refused"] for phase in phases),
        "generator CPU": statistics.median(phase["cpu_share"] for phase in phases),
    }


def _figures(one: Sample) -> dict[str, object]:
    return {"ceiling": one.ceiling, "compared": one.compared, "phases": one.result["phases"]}
