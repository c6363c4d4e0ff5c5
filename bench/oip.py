"""Session steps through the doors of the service: its own stream, unary ModelInfer and ModelStreamInfer.

Closed loop, one step a message, the same model; the doors take turns, each after its ceiling (raw ONNX Runtime in
process). Sequences of 64 steps begin and end with the protocol's flags. Answers are compared with the raw runtime's,
one session alone.
"""

import argparse
import itertools
import os
import statistics
import struct
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench import step_model
from bench.ceiling import Ceiling
from bench.drive import Result, drive, read_responses, write_messages
from bench.report import Plot, Report, Row, plain
from bench.server import Server, running
from bench.tokens import FIRST_WORD, token
from protos.inference import grpc_service_pb2 as oip

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
SEQUENCE = 64  # steps, then another begins under the same id
CEILING_ROWS = 64
DOORS = ("Session", "ModelInfer", "ModelStreamInfer")
EVERYTHING = 10_000_000


class Shape(NamedTuple):
    """What is asked of the service."""

    door: str
    sessions: int


class Sample(NamedTuple):
    """One measurement, and its ceiling just before."""

    result: Result
    ceiling: float  # steps/s
    compared: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `oip`."""
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--doors", nargs="+", choices=DOORS, default=list(DOORS))
    parser.add_argument("--streams", type=int, default=8, help="that carry all sessions, where they share some")
    parser.add_argument("--check", type=int, default=8, help="sessions whose answers are compared")
    parser.add_argument("--runners", type=int, default=os.cpu_count() or 1, help="of the ceiling and of the service")


def request(session: int, step: int, vocabulary: int) -> oip.ModelInferRequest:
    """One step of a sequence."""
    message = oip.ModelInferRequest(model_name=step_model.NAME)
    message.parameters["sequence_id"].int64_param = session + 1
    if step == 0:
        message.parameters["sequence_start"].bool_param = True
    if step == SEQUENCE - 1:
        message.parameters["sequence_end"].bool_param = True
    message.inputs.add(name="tokens", datatype="INT64", shape=[1, 1])
    message.raw_input_contents.append(struct.pack("<q", token(session, step, vocabulary)))
    return message


def best_token(answer: bytes) -> int:
    """The token that an answer gives."""
    response = oip.ModelInferResponse.FromString(answer)
    place = [output.name for output in response.outputs].index("top_tokens")
    return int(struct.unpack("<q", response.raw_output_contents[place])[0])


class Doors:
    """The service's doors, and what is right.

    Args:
        folder: For messages and answers.
        ceiling: The raw runtime.
        server: The service.
        options: The command line.
    """

    def __init__(self, folder: Path, ceiling: Ceiling, server: Server, options: argparse.Namespace) -> None:
        self._folder, self._ceiling, self._server, self._options = folder, ceiling, server, options
        self._right: dict[int, list[int]] = {}

    def sample(self, shape: Shape) -> Sample:
        """Measure the ceiling, then a door."""
        options = self._options
        rate, _ = self._ceiling.steps_per_s(CEILING_ROWS, options.seconds / 2, options.runners)
        streams = min(options.streams, shape.sessions)
        common: dict[str, object] = {
            "address": self._server.address,
            "connections": min(streams, 4),
            "seconds": options.seconds,
            "warmup": options.warmup,
        }
        if shape.door == "Session":
            return self._typed(common, shape.sessions, streams, rate)
        how: dict[str, object] = {"method": MODEL_INFER} if shape.door == "ModelInfer" else {"streams": streams}
        responses = self._folder / "responses"
        result = drive(
            "grpc" if shape.door == "ModelInfer" else "infer-stream",
            **common,
            **how,
            templates=self._templates(shape.sessions),
            callers=shape.sessions,
            sequences=1,
            keep=EVERYTHING,
            responses=responses,
        )
        if result["failures"]:
            raise SystemExit(f"bench: expected no failures, got {result['failures']}: {result['first_failure']}")
        return Sample(result, rate, self._check(responses))

    def _typed(self, common: dict[str, object], sessions: int, streams: int, rate: float) -> Sample:
        result = drive(
            "sessions",
            **common,
            model=step_model.NAME,
            sessions=sessions,
            streams=streams,
            vocabulary=self._ceiling.vocabulary,
            first_token=FIRST_WORD,
            check=self._options.check,
            check_steps=SEQUENCE,
        )
        compared = 0
        for kept in result["checked"]:
            _compare(kept["session"], kept["answers"], self._ceiling.answers_to(kept["inputs"]))
            compared += len(kept["answers"])
        return Sample(result, rate, compared)

    def _templates(self, sessions: int) -> Path:
        path = self._folder / f"{sessions}.requests"
        if not path.exists():
            steps = itertools.product(range(sessions), range(SEQUENCE))
            write_messages(path, (request(*one, self._ceiling.vocabulary).SerializeToString() for one in steps))
        return path

    def _check(self, responses: Path) -> int:
        compared = 0
        for response in read_responses(responses):
            session, step = divmod(response.message, SEQUENCE)
            if session >= self._options.check:
                continue
            if session not in self._right:
                self._right[session] = self._ceiling.answers(session, SEQUENCE)
            _compare(session, [best_token(response.parts[0])], [self._right[session][step]])
            compared += 1
        return compared


def _compare(session: int, got: list[int], right: list[int]) -> None:
    if got != right:
        raise SystemExit(f"bench: session {session}: expected tokens {right}, got {got}")


def measure(options: argparse.Namespace, console: Console) -> Report:
    """All rounds; see the module docstring."""
    samples: dict[Shape, list[Sample]] = defaultdict(list)
    chosen = [Shape(door, sessions) for sessions, door in itertools.product(options.sessions, options.doors)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-")))
        bundle = step_model.publish(folder / "repository")
        ceiling = Ceiling.open(bundle, 1, 2 + CEILING_ROWS * options.runners)
        settings = {"runners": options.runners, "num_slots": 2 + 4 * max(64, *options.sessions)}
        server = stack.enter_context(running(folder / "repository", folder / "server.log", **settings))
        doors = Doors(folder, ceiling, server, options)
        for number, shape in itertools.product(range(options.rounds), chosen):
            console.print(f"round {number + 1} of {options.rounds}: {shape}", style="dim", highlight=False)
            samples[shape].append(doors.sample(shape))
    compared = sum(one.compared for many in samples.values() for one in many)
    if not compared:
        raise SystemExit("bench: expected answers to check, got none")
    rows = [_summarise(shape, samples[shape]) for shape in chosen]
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row, shape in zip(rows, chosen, strict=True):
        lines[shape.door].append((shape.sessions, float(row["steps/s"] or 0)))
    rounds = [{**shape._asdict(), "rounds": [_figures(one) for one in samples[shape]]} for shape in chosen]
    return Report(
        "oip",
        "Session steps through each door, closed loop, one step a message",
        rows,
        [f"{compared} answers equal to the raw runtime's, one session alone", f"{options.rounds} rounds, medians"],
        {"options": plain(options), "samples": rounds},
        [Plot("oip", "Session steps through each door", "sessions", "steps/s", lines, log_x=True)],
    )


def _summarise(shape: Shape, samples: list[Sample]) -> Row:
    phases = [one.result["phases"][0] for one in samples]
    ratios = [phase["answered_per_s"] / one.ceiling for phase, one in zip(phases, samples, strict=True)]
    return {
        **shape._asdict(),
        "steps/s": statistics.median(phase["answered_per_s"] for phase in phases),
        "ceiling": statistics.median(one.ceiling for one in samples),
        "ratio": statistics.median(ratios),
        "p50 ms": statistics.median(phase["latency_ms"]["p50"] for phase in phases),
        "p99 ms": statistics.median(phase["latency_ms"]["p99"] for phase in phases),
        "generator CPU": statistics.median(phase["cpu_share"] for phase in phases),
    }


def _figures(one: Sample) -> dict[str, object]:
    return {"ceiling": one.ceiling, "compared": one.compared, "phases": one.result["phases"]}
