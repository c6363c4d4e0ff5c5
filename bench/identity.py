"""Bit-identity: every session equals its run alone, whoever else is in its batches and whatever happens to them.

    python -m bench.identity [--sessions 1000] [--steps 50] [--precision fp32 int8]

Sessions with random inputs and messages of random lengths go through the running service over gRPC, far more of them
than it has slots; some are forked, marked, rewound, taken out and opened again, some lose their stream in the middle,
and texts are generated and cancelled beside them. Afterwards each is run alone with plain ONNX Runtime, one row at a
time, and every id and every log-probability that was answered must be equal, bit for bit. Exit status 1 and the first
difference where one is not.
"""

import argparse
import asyncio
import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from bench import step_model, walks
from bench.alone import Alone, Step
from bench.server import running
from bench.untrained import publish_untrained
from bench.walks import Group, Kind, Walk
from bench.wire import Fault, first_of
from export.manifest import DecodingDefaults, Precision
from models.config import LanguageModelConfig
from models.symbols import SPECIALS
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub

NAME = "identity"
TOP_K = 4
NUM_STREAMS = 48  # at most
KINDS: tuple[Kind, ...] = ("steady", "breaking", "breaking", "anonymous")


@dataclass(frozen=True)
class Size:
    """Of the model and of the crowd."""

    sessions: int = 1000
    steps: int = 50
    vocabulary: int = step_model.VOCABULARY
    embedding: int = step_model.EMBEDDING
    hidden: int = step_model.HIDDEN
    layers: int = step_model.LAYERS


@dataclass(frozen=True)
class Outcome:
    """What was done and compared; all compared was equal."""

    precision: str
    paths: int
    steps_compared: int
    outputs_compared: int
    host_state_bytes: int  # the most that was seen outside the slots
    counts: dict[str, int]


def publish(repository: Path, precision: Precision, size: Size) -> Path:
    """Write the model into a repository; returns the bundle's folder."""
    config = LanguageModelConfig(cell="lstm", dim=size.embedding, hidden=size.hidden, layers=size.layers, dropout=0.0)
    words = [*SPECIALS, *(f"w{i}" for i in range(size.vocabulary - len(SPECIALS)))]
    decoding = DecodingDefaults(top_k=TOP_K)
    return publish_untrained(repository, NAME, config, {"tokens": words}, {"tokens": "whitespace"}, precision, decoding)


async def crowd(address: str, size: Size, seed: int) -> tuple[list[walks.Path], Counter[str], int]:
    """Let all sessions go their ways; returns these, what happened, and the most bytes of states outside the slots."""
    counts: Counter[str] = Counter()
    over = asyncio.Event()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = CarryoverStub(channel)
        num_streams = min(NUM_STREAMS, max(len(KINDS), size.sessions // 4))
        answers = round(size.sessions / num_streams * (2 + 2 * size.steps / walks.MOST_STEPS))
        groups = [Group(stub, NAME, KINDS[i % len(KINDS)], i, seed, answers, counts) for i in range(num_streams)]
        sessions = [groups[i % len(groups)] for i in range(size.sessions)]
        ways = [Walk(g, walks.Path(g.new_name()), size.steps, size.vocabulary, TOP_K) for g in sessions]
        async with asyncio.TaskGroup() as tasks:
            for i in range(4):
                tasks.create_task(neighbour(stub, size, seed + i, over, counts))
            watch = tasks.create_task(watch_host_bytes(stub, over))
            await asyncio.wait([tasks.create_task(way.run()) for way in ways])
            over.set()
        for group in groups:
            await group.close()
        await settle(stub)
        return [path for group in groups for path in group.paths], counts, watch.result()


async def neighbour(stub: Any, size: Size, seed: int, over: asyncio.Event, counts: Counter[str]) -> None:
    """Generate texts, and cancel half of them somewhere in the middle."""
    rng = random.Random(seed)
    while not over.is_set():
        words = " ".join(f"w{rng.randrange(size.vocabulary - len(SPECIALS))}" for _ in range(rng.randint(1, 8)))
        request = pb.GenerateRequest(model=pb.ModelRef(name=NAME), prompt=words, max_tokens=20, seed=rng.randrange(99))
        call = stub.Generate(request)
        stop = rng.randrange(20) if rng.random() < 0.5 else 10**9
        try:
            for number in range(10**9):
                if number == stop:
                    call.cancel()
                if await call.read() is grpc.aio.EOF:
                    break
            counts["texts generated"] += 1
        except asyncio.CancelledError:
            counts["texts cancelled"] += 1
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Fault(f"a text failed: {error.details()}") from None
            await asyncio.sleep(0.05)


async def watch_host_bytes(stub: Any, over: asyncio.Event) -> int:
    """The most bytes of states outside the slots that the service told of."""
    most = 0
    while not over.is_set():
        model = await stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name=NAME)))
        most = max(most, model.load.host_state_bytes)
        await asyncio.sleep(0.02)
    return most


async def settle(stub: Any, patience_s: int = 10) -> None:
    """Wait until the service has nothing left of anybody, for so many seconds that the machine does not stand still.

    Raises:
        Fault: It still has after that time.
    """
    for _ in range(20 * patience_s):
        load = (await stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name=NAME)))).load
        kept = (load.sessions, load.running, load.waiting, load.host_state_bytes, load.num_slots - load.free_slots)
        if not any(kept):
            return
        await asyncio.sleep(0.05)
    raise Fault(f"expected every slot free and no session, got {load}")


def compare(alone: Alone, path: walks.Path) -> int:
    """Hold a session against its run alone; returns how many outputs were compared.

    Raises:
        Fault: One differs.
    """
    compared = 0
    for step, expected in enumerate(alone.run(path.tokens)):
        got = path.heard.get(step)
        if got is None:
            continue
        wanted = (expected[0][: len(got[0])], expected[1][: len(got[0])])
        if got[0] != wanted[0] or as_bits(got) != as_bits(wanted):
            raise Fault(f"session {path.name}, step {step}: alone {wanted}, in company {got}")
        compared += len(got[0])
    return compared


def as_bits(step: Step) -> bytes:
    """The log-probabilities as they are in memory."""
    return np.array(step[1], dtype=np.float32).tobytes()


def prove(precision: Precision, size: Size, seed: int, folder: Path, runners: int = 0) -> Outcome:
    """Publish, serve, go, compare; see the module docstring.

    Args:
        precision: Of the model.
        size: Of the model and of the crowd.
        seed: Of all that is random on this side of the wire.
        folder: An empty one.
        runners: Runs side by side; 0 is the service's default.

    Raises:
        Fault: Something is not as it must be; in a group, where several tasks may have found something.
    """
    bundle = publish(folder / "repository", precision, size)
    slots = max(16, size.sessions // 4)
    settings = {"num_slots": slots, "runners": runners, "max_queue_delay_ms": 60_000}
    with running(folder / "repository", folder / "server.log", **settings) as server:
        paths, counts, host_bytes = uvloop.run(crowd(server.address, size, seed))
    alone = Alone(bundle)
    compared = sum(compare(alone, path) for path in paths)
    steps = sum(len(path.heard) for path in paths)
    return Outcome(precision, len(paths), steps, compared, host_bytes, dict(sorted(counts.items())))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, prove, print."""
    parser = argparse.ArgumentParser(
        prog="bench.identity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=Size.sessions, help="opened sessions; forks come on top")
    parser.add_argument("--steps", type=int, default=Size.steps, help="steps of each")
    parser.add_argument("--hidden", type=int, default=Size.hidden, help="units of each layer of the model")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runners", type=int, default=0, help="runs side by side; 0: one a core")
    parser.add_argument("--json", type=Path, help="also write what was done to this file")
    options = parser.parse_args(arguments)
    size = Size(sessions=options.sessions, steps=options.steps, hidden=options.hidden)
    outcomes = []
    for precision in options.precision:
        with tempfile.TemporaryDirectory(prefix="carryover-identity-") as folder:
            try:
                outcomes.append(prove(precision, size, options.seed, Path(folder), options.runners))
            except* Fault as group:
                raise SystemExit(f"identity: {first_of(group)}") from None
    table = Table(title=f"{size.sessions} sessions of {size.steps} steps: each equals its run alone, bit for bit")
    table.add_column("")
    for outcome in outcomes:
        table.add_column(outcome.precision, justify="right")
    names = sorted({name for outcome in outcomes for name in outcome.counts})
    for name in ("paths", "steps_compared", "outputs_compared", "host_state_bytes"):
        table.add_row(name.replace("_", " "), *(f"{getattr(outcome, name):,}" for outcome in outcomes))
    for name in names:
        table.add_row(name, *(f"{outcome.counts.get(name, 0):,}" for outcome in outcomes))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2) + "\n")


if __name__ == "__main__":
    main()
