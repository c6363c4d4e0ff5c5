"""A soak: minutes of everything at random, while the memory of the server is watched and the books are kept.

    python -m bench.soak [--minutes 10] [--out DIR]

Callers open, step, mark, rewind, fork, export and close sessions, walk away from them so that they expire, break their
streams and take them up again; texts are generated, cancelled and run out of time; and the model is replaced by a newer
version again and again. Afterwards every command must have been answered exactly once (or its stream been broken), all
slots be free, every replaced version be gone, and resident memory be flat (`bench.soak_memory`): from the end of the
first minute on, the mean of every window as long as four reloads within 2% of the first of them. Exit status 1 where
not.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop
from rich.console import Console
from rich.table import Table

from bench.identity import NAME, Size, publish, settle
from bench.server import Server, running
from bench.soak_callers import PATIENCE_S, Caller, generate
from bench.soak_memory import Memory, judge_memory, plot
from bench.wire import Fault, first_of
from export.manifest import MANIFEST_FILE
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub

WARM_UP_S = 60.0
MOST_DRIFT = 0.02
WINDOW_RELOADS = 4
LOG = "server.log"
MODEL = Size(vocabulary=4_000, embedding=128, hidden=256, layers=2)


@dataclass(frozen=True)
class Options:
    """How long and how much. Times in seconds."""

    seconds: float = 600.0
    warm_up_s: float = WARM_UP_S
    reload_every_s: float = 30.0
    callers: int = 8
    lives: int = 12  # of a caller, at a time
    texts: int = 4  # being generated at a time
    seed: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a soak showed; `faults` is empty where all is well."""

    counts: dict[str, int]
    reloads: int
    memory: Memory
    faults: list[str]


def publish_next(repository: Path, version: int) -> None:
    """Put the model there once more as a newer version, and take away what came before the one that it replaces."""
    folder = repository / NAME
    made = Path(tempfile.mkdtemp(dir=repository.parent)) / str(version)
    shutil.copytree(folder / str(version - 1), made, copy_function=os.link)
    manifest = json.loads((made / MANIFEST_FILE).read_text())
    (made / MANIFEST_FILE).unlink()  # not the file of both
    (made / MANIFEST_FILE).write_text(json.dumps(manifest | {"version": version}))
    made.rename(folder / str(version))
    made.parent.rmdir()
    shutil.rmtree(folder / str(version - 2), ignore_errors=True)


async def reload(server: Server, stub: Any, repository: Path, version: int) -> None:
    """Have the server replace the model while it is in use, and wait until it says that it has.

    Raises:
        Fault: It does not.
    """
    await asyncio.to_thread(publish_next, repository, version)
    os.kill(server.pid, signal.SIGHUP)
    for _ in range(10 * PATIENCE_S):
        if (await stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name=NAME)))).ref.version == version:
            return
        await asyncio.sleep(0.1)
    raise Fault(f"version {version} is not served {PATIENCE_S} s after SIGHUP")


async def soak(server: Server, repository: Path, log: Path, options: Options, vocabulary: int) -> Outcome:
    """Strain a running server; see the module docstring.

    Args:
        server: Which.
        repository: Its repository.
        log: Where its output goes, which tells when a version has ended.
        options: How long and how much.
        vocabulary: Ids of the model.
    """
    counts: Counter[str] = Counter()
    over = asyncio.Event()
    began = time.monotonic()
    seconds: list[float] = []
    rss: list[int] = []
    reloading: list[bool] = []
    version = 1

    async def sample() -> None:
        while True:
            seconds.append(time.monotonic() - began)
            reloading.append(version > 1 and not has_ended(log, version - 1))
            rss.append(server.rss_bytes())
            await asyncio.sleep(1.0 - (time.monotonic() - began) % 1.0)

    async def replace(stub: Any) -> int:
        nonlocal version
        while not over.is_set():
            try:
                async with asyncio.timeout(options.reload_every_s):
                    await over.wait()
            except TimeoutError:
                version += 1
                await reload(server, stub, repository, version)
        return version - 1

    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = CarryoverStub(channel)
        rngs = [random.Random(f"{options.seed}/{i}") for i in range(options.callers + options.texts)]
        # Every fourth caller has no name.
        names = [None if i % 4 == 3 else f"soak-caller-{options.seed:04d}-{i:04d}" for i in range(options.callers)]
        sampling = asyncio.create_task(sample())
        async with asyncio.TaskGroup() as group:
            for name, rng in zip(names, rngs, strict=False):
                caller = Caller(stub, NAME, vocabulary, name, rng, counts, over)
                group.create_task(caller.run(options.lives))
            for rng in rngs[options.callers :]:
                group.create_task(generate(stub, NAME, rng, counts, over))
            replacing = group.create_task(replace(stub))
            await asyncio.sleep(options.seconds)
            over.set()
        sampling.cancel()
        await settle(stub, PATIENCE_S)
    memory = judge_memory(seconds, rss, reloading, options.warm_up_s, WINDOW_RELOADS * options.reload_every_s)
    faults = []
    if counts["strays"]:
        faults.append(f"{counts['strays']} answers that nobody asked for, or that came twice")
    if abs(memory.drift) > MOST_DRIFT:
        faults.append(f"resident memory moved by {memory.drift:+.1%}, expected at most {MOST_DRIFT:.0%}")
    return Outcome(dict(sorted(counts.items())), replacing.result(), memory, faults)


def ended(version: int) -> str:
    """What the server's log says of a version that has ended."""
    return f"model {NAME} version {version}: ended"


def has_ended(log: Path, version: int) -> bool:
    """Whether the log says so."""
    return ended(version) in log.read_text(errors="replace")


def check_log(log: str, reloads: int) -> list[str]:
    """Faults that the server's log tells of."""
    bad = [line for line in log.splitlines() if " CRITICAL " in line or " ERROR " in line]
    faults = [f"{len(bad)} errors in the server's log, first: {bad[0]}"] if bad else []
    for version in range(1, reloads + 1):
        if ended(version) not in log:
            faults.append(f"version {version} was replaced and has not ended")
    return faults


def run(options: Options, size: Size, folder: Path) -> Outcome:
    """Publish, serve, soak.

    Args:
        options: How long and how much.
        size: Of the model.
        folder: An empty one.
    """
    repository = folder / "repository"
    publish(repository, "fp32", size)
    log = folder / LOG
    # Fewer slots than sessions, so that states come and go; nobody waits long for those who walked away.
    settings = {"num_slots": max(16, options.callers * options.lives // 2), "session_idle_timeout_s": 3.0}
    with running(repository, log, **settings) as server:
        outcome = uvloop.run(soak(server, repository, log, options, size.vocabulary))
        _wait_for_end(log, outcome.reloads)
    outcome.faults.extend(check_log(log.read_text(errors="replace"), outcome.reloads))
    return outcome


def _wait_for_end(log: Path, version: int, patience_s: float = 10.0) -> None:
    """Give the last version that was replaced the time to notice that nobody is left."""
    until = time.monotonic() + patience_s
    while version and not has_ended(log, version):
        if time.monotonic() > until:
            return  # `check_log` says it
        time.sleep(0.1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, soak, print."""
    parser = argparse.ArgumentParser(
        prog="bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--reload-every", type=float, default=Options.reload_every_s, help="seconds between reloads")
    parser.add_argument("--callers", type=int, default=Options.callers, help="streams")
    parser.add_argument("--lives", type=int, default=Options.lives, help="sessions of a caller at a time")
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--out", type=Path, help="folder for soak.json, soak.png and the server's log")
    chosen = parser.parse_args(arguments)
    options = Options(
        seconds=60 * chosen.minutes,
        reload_every_s=chosen.reload_every,
        callers=chosen.callers,
        lives=chosen.lives,
        seed=chosen.seed,
    )
    console = Console()
    with tempfile.TemporaryDirectory(prefix="carryover-soak-") as folder:
        try:
            outcome = run(options, MODEL, Path(folder))
        except* Fault as group:
            raise SystemExit(f"soak: {first_of(group)}") from None
        finally:
            if chosen.out:
                chosen.out.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(folder) / LOG, chosen.out)
    table = Table(title=f"{chosen.minutes:g} minutes of everything at random")
    table.add_column("")
    table.add_column("", justify="right")
    for name, count in outcome.counts.items():
        table.add_row(name, f"{count:,}")
    table.add_row("reloads of the model", f"{outcome.reloads:,}")
    memory = outcome.memory
    windows = [f"{mean / 2**20:.1f}" for mean in memory.windows]
    two = [size for size, reloading in zip(memory.rss_bytes, memory.reloading, strict=True) if reloading]
    table.add_row("resident memory, MiB, first and last window", f"{windows[0]} {windows[-1]}" if windows else "-")
    table.add_row("farthest window from the first", f"{memory.drift:+.2%}")
    table.add_row("the most while two versions were there, MiB", f"{max(two) / 2**20:.1f}" if two else "-")
    console.print(table)
    if chosen.out:
        (chosen.out / "soak.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
        if not plot(outcome.memory, chosen.out / "soak.png"):
            console.print("no plot: matplotlib is not installed")
    if outcome.faults:
        raise SystemExit("soak: " + "; ".join(outcome.faults))


if __name__ == "__main__":
    main()
