"""Other people's recurrent models: the service beside the file that they came in, run in a loop.

Each model is imported with one command and served; sessions are sequences of the Open Inference Protocol on one stream
each or a few shared ones, closed loop, one step a message. The loop is the original in ONNX Runtime, in process, one
thread, one session: its states handed from run to run. It is measured before each run of the service, and its answers
are what the service's have to be.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from bench import third_party
from bench.drive import Result, drive, read_responses, write_messages
from bench.original import Array, Original
from bench.report import Report, Row, plain
from bench.server import Server, running
from bench.third_party import ThirdParty
from export.bundle import list_versions, load_manifest
from export.manifest import Manifest
from protos.inference import grpc_service_pb2 as oip

SEQUENCE = 32  # steps, then another begins under the same id
LIMIT = 1e-5  # where company may change a rounding
EVERYTHING = 10_000_000
PATIENCE_MS = 60_000  # 256 sessions wait long for a model that runs one row at a time: a refused step would be missing


class Shape(NamedTuple):
    """What is asked of the service."""

    model: str
    sessions: int


@dataclass(frozen=True)
class Sample:
    """One measurement, and the loop just before.

    Args:
        result: Of the load generator.
        loop: Steps/s of the original in a loop.
        compared: Steps whose outputs were compared.
        difference: Largest of them.
    """

    result: Result
    loop: float
    compared: int
    difference: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `imported`."""
    names = [model.name for model in third_party.MODELS]
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--streams", type=int, default=8, help="that carry all sessions, where they share some")
    parser.add_argument("--check", type=int, default=4, help="sessions whose answers are compared")
    parser.add_argument("--runners", type=int, default=os.cpu_count() or 1, help="of the service")


class Imported:
    """A model as it is served, and as it came.

    Args:
        model: Which.
        repository: Where it is imported to.
    """

    def __init__(self, model: ThirdParty, repository: Path) -> None:
        self.model = model
        command = [sys.executable, "-m", "carryover", "import-onnx", str(model.file), "--repository", str(repository)]
        command += ["--name", model.name, "--yes", *(f"--state={state}" for state in model.states)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench: {model.name}: not imported: {done.stderr.strip()}")
        (path,) = (path for path in list_versions(repository) if path.name == model.name)
        self.manifest: Manifest = load_manifest(path.folder)
        self.original = Original(model.file, self.manifest.states)
        self.shared = model.shared_inputs()
        self._right: dict[int, dict[str, Array]] = {}

    @property
    def max_rows(self) -> int | None:
        """Rows of one run; None: any."""
        assert self.manifest.imported is not None
        return self.manifest.imported.max_rows

    def steps_per_s(self, seconds: float) -> float:
        """Measure the loop: whole sequences until time is up."""
        steps = self.model.steps(0, SEQUENCE)
        self.original.loop(steps, self.shared)
        began, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < seconds:
            self.original.loop(steps, self.shared)
            count += SEQUENCE
        return count / spent

    def message(self, session: int, step: int, steps: dict[str, Array]) -> bytes:
        """One step of a session as a request."""
        request = oip.ModelInferRequest(model_name=self.model.name)
        request.parameters["sequence_id"].int64_param = session + 1
        if step == 0:
            request.parameters["sequence_start"].bool_param = True
        if step == SEQUENCE - 1:
            request.parameters["sequence_end"].bool_param = True
        for name, values in steps.items():
            _add(request, name, values[step : step + 1])
        for name, value in self.shared.items():
            _add(request, name, value)
        return request.SerializeToString()

    def compare(self, session: int, step: int, answer: oip.ModelInferResponse) -> float:
        """Compare one answer with the loop; give the largest difference.

        Raises:
            SystemExit: It is larger than it may be.
        """
        if session not in self._right:
            self._right[session] = self.original.loop(self.model.steps(session, SEQUENCE), self.shared)
        right = self._right[session]
        got = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=True))
        if got.keys() != right.keys():
            raise SystemExit(f"bench: {self.model.name}: expected outputs {sorted(right)}, got {sorted(got)}")
        worst = 0.0
        for name, values in right.items():
            expected = values[step]
            array = np.frombuffer(got[name], expected.dtype).reshape(expected.shape)
            worst = max(worst, float(np.abs(array - expected).max()))
        if not worst <= (0.0 if self.model.exact else LIMIT):
            raise SystemExit(f"bench: {self.model.name}: session {session}, step {step}: differs by {worst}")
        return worst


def _add(request: oip.ModelInferRequest, name: str, value: Array) -> None:
    datatype = {"float32": "FP32", "int64": "INT64"}[value.dtype.name]
    request.inputs.add(name=name, datatype=datatype, shape=value.shape)
    request.raw_input_contents.append(value.tobytes())


def _sample(imported: Imported, sessions: int, server: Server, folder: Path, options: argparse.Namespace) -> Sample:
    """Measure the loop, then the service."""
    templates = folder / f"{imported.model.name}-{sessions}.requests"
    if not templates.exists():
        write_messages(
            templates,
            (
                imported.message(session, step, steps)
                for session in range(sessions)
                for steps in (imported.model.steps(session, SEQUENCE),)
                for step in range(SEQUENCE)
            ),
        )
    loop = imported.steps_per_s(options.seconds / 2)
    streams = min(options.streams, sessions)
    responses = folder / "responses"
    result = drive(
        "infer-stream",
        address=server.address,
        connections=min(streams, 4),
        seconds=options.seconds,
        warmup=options.warmup,
        streams=streams,
        templates=templates,
        callers=sessions,
        sequences=1,
        keep=EVERYTHING,
        responses=responses,
    )
    if result["failures"]:
        raise SystemExit(f"bench: expected no failures, got {result['failures']}: {result['first_failure']}")
    compared, worst = 0, 0.0
    for response in read_responses(responses):
        session, step = divmod(response.message, SEQUENCE)
        if session < options.check:
            answer = oip.ModelInferResponse.FromString(response.parts[0])
            worst = max(worst, imported.compare(session, step, answer))
            compared += 1
    return Sample(result, loop, compared, worst)


def measure(options: argparse.Namespace, console: Console) -> Report:
    """All rounds; see the module docstring."""
    models = [model for model in third_party.MODELS if model.name in options.models]
    third_party.fetch(models)
    samples: dict[Shape, list[Sample]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-")))
        imported = [Imported(model, folder / "repository") for model in models]
        settings = {
            "runners": options.runners,
            "num_slots": 2 + 4 * max(64, *options.sessions),
            "max_queue_delay_ms": PATIENCE_MS,
        }
        server = stack.enter_context(running(folder / "repository", folder / "server.log", **settings))
        for number, one, sessions in itertools.product(range(options.rounds), imported, options.sessions):
            shape = Shape(one.model.name, sessions)
            console.print(f"round {number + 1} of {options.rounds}: {shape}", style="dim", highlight=False)
            samples[shape].append(_sample(one, sessions, server, folder, options))
    compared = sum(one.compared for many in samples.values() for one in many)
    if not compared:
        raise SystemExit("bench: expected answers to check, got none")
    max_rows = {one.model.name: one.max_rows for one in imported}
    rows = [_summarise(shape, many, max_rows[shape.model]) for shape, many in samples.items()]
    rounds = [{**shape._asdict(), "rounds": [_figures(one) for one in many]} for shape, many in samples.items()]
    return Report(
        "imported",
        "Imported models: steps through the service beside the original in a loop",
        rows,
        [
            f"{compared} answers compared with the loop's; difference 0 is bit for bit",
            "the loop: one session, one thread, in process, no network; a model of batch 1 is run a row at a time",
            f"{options.rounds} rounds, medians",
        ],
        {"options": plain(options), "samples": rounds},
    )


def _summarise(shape: Shape, samples: list[Sample], max_rows: int | None) -> Row:
    phases = [one.result["phases"][0] for one in samples]
    ratios = [phase["answered_per_s"] / one.loop for phase, one in zip(phases, samples, strict=True)]
    return {
        **shape._asdict(),
        "batch": "any" if max_rows is None else max_rows,
        "steps/s": statistics.median(phase["answered_per_s"] for phase in phases),
        "loop": statistics.median(one.loop for one in samples),
        "ratio": statistics.median(ratios),
        "p50 ms": statistics.median(phase["latency_ms"]["p50"] for phase in phases),
        "p99 ms": statistics.median(phase["latency_ms"]["p99"] for phase in phases),
        "difference": f"{max(one.difference for one in samples):.1g}",
    }


def _figures(one: Sample) -> dict[str, object]:
    return {
        "loop": one.loop,
        "compared": one.compared,
        "difference": one.difference,
        "phases": one.result["phases"],
    }
