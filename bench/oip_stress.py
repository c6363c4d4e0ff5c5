"""A stress of the Open Inference Protocol: client processes that behave well, badly, and die.

    python -m bench.oip_stress [--minutes 10] [--out DIR]

Every answer must be exact (see `bench.oip_lives`). Afterwards, when what was left open has expired, the server must
have no session, no request and no slot in use, no more descriptors and connections than before, and nothing bad in its
log. Exit status 1 where not.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from bench.oip_client import NUM_IDS
from bench.oip_lives import ANSWER_TIMEOUT_S, MODELS
from bench.oip_models import SOURCES, Source
from bench.server import Server, free_port, running
from carryover.client.sync import Client
from importing.pipeline import import_model

LOG = "server.log"
SHOWN_LINES = 30  # of the log from what is wrong there
IDLE_TIMEOUT_S = 3.0
SLOTS = 48  # fewer than sequences, so that states come and go
KILLED_AFTER_S = (2.0, 8.0)  # a client process that is to crash
PATIENCE_S = 30.0  # above the idle timeout, for what was left open to expire


@dataclass(frozen=True)
class Options:
    """How long and how much. Times in seconds."""

    seconds: float = 600.0
    clients: int = 3  # processes that live to the end
    crashing: int = 1  # that are killed again and again
    seed: int = 1


@dataclass
class Outcome:
    """What a stress showed; `faults` is empty where all is well."""

    counts: dict[str, int] = field(default_factory=dict)
    killed: int = 0
    rss_bytes: list[int] = field(default_factory=list)  # at the start, and every ten seconds
    descriptors: tuple[int, int] = (0, 0)  # before and after
    faults: list[str] = field(default_factory=list)


def publish(folder: Path, sources: Mapping[str, Source]) -> Path:
    """Import the models that the lives ask; gives the repository."""
    repository = folder / "repository"
    for name in MODELS:
        onnx.save(sources[name].build(), folder / f"{name}.onnx")
        source = sources[name]
        import_model(folder / f"{name}.onnx", repository, name=name, states=source.states, company=source.company)
    return repository


class Crowd:
    """The client processes.

    Args:
        grpc: Address of the gRPC door.
        http: Address of the HTTP door.
        options: How many.
    """

    def __init__(self, grpc: str, http: str, options: Options) -> None:
        self._addresses = ("--grpc", grpc, "--http", http)
        self._options = options
        self._started = 0
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, place: int, seconds: float) -> "subprocess.Popen[str]":
        """Start a process whose correlation ids are those of its place."""
        self._started += 1
        numbers = ("--first-id", str(1 + place * NUM_IDS), "--seed", str(1000 * self._options.seed + self._started))
        times = ("--seconds", str(seconds), "--idle-timeout", str(IDLE_TIMEOUT_S))
        command = [sys.executable, "-m", "bench.oip_client", *self._addresses, *numbers, *times]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.processes.append(process)
        return process

    def end(self) -> None:
        """End all of them, whatever they do."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def heard(process: "subprocess.Popen[str]", outcome: Outcome, counts: Counter[str]) -> None:
    """Take what a process has said, once it has ended."""
    try:
        said, _ = process.communicate(timeout=ANSWER_TIMEOUT_S + PATIENCE_S)
    except subprocess.TimeoutExpired:
        outcome.faults.append("a client did not end: an answer never came")
        return
    if process.returncode == -signal.SIGKILL and not said:
        return  # as it was meant to
    try:
        report = json.loads(said)
    except ValueError:
        outcome.faults.append(f"a client ended with status {process.returncode} and said {said!r}")
        return
    counts.update(report["counts"])
    if report["fault"]:
        outcome.faults.append(report["fault"])


def strain(server: Server, http: str, options: Options) -> Outcome:
    """Let the crowd in, kill some of it now and then, and wait for the rest."""
    outcome, counts, rng = Outcome(), Counter[str](), random.Random(options.seed)
    crowd = Crowd(server.address, http, options)
    outcome.rss_bytes.append(server.rss_bytes())
    ends = time.monotonic() + options.seconds
    try:
        steady = [crowd.start(place, options.seconds) for place in range(options.clients)]
        dying = {place: crowd.start(options.clients + place, options.seconds) for place in range(options.crashing)}
        sampled = killed = time.monotonic()
        life_s = rng.uniform(*KILLED_AFTER_S)
        while (now := time.monotonic()) < ends and all(process.poll() is None for process in steady):
            time.sleep(min(0.2, ends - now))
            if now - sampled > 10.0:
                outcome.rss_bytes.append(server.rss_bytes())
                sampled = now
            if now - killed < life_s:
                continue
            for place, process in dying.items():
                process.kill()
                heard(process, outcome, counts)
                outcome.killed += 1
                dying[place] = crowd.start(options.clients + place, max(ends - now, 1.0))
            killed, life_s = now, rng.uniform(*KILLED_AFTER_S)
        early = [process for process in steady if process.poll() is not None]
        for process in early or [*steady, *dying.values()]:  # one that ended early has a fault to tell: that is the end
            heard(process, outcome, counts)
    finally:
        crowd.end()
    outcome.counts = dict(sorted(counts.items()))
    return outcome


def descriptors(pid: int) -> int:
    """Files and connections that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_until_empty(address: str) -> list[str]:
    """Wait for what was left open to expire; gives what is still there after that."""
    deadline = time.monotonic() + IDLE_TIMEOUT_S + PATIENCE_S
    with Client(address) as client:
        while True:
            faults = []
            for model in MODELS:
                load = client.model(model).load
                if load.sessions or load.waiting or load.running or load.free_slots != load.num_slots:
                    faults.append(f"{model} is not empty: {load}")
            if not faults or time.monotonic() > deadline:
                return faults
            time.sleep(0.1)


def run(options: Options, folder: Path, sources: Mapping[str, Source] = SOURCES) -> Outcome:
    """Import, serve, strain, look at what is left.

    Args:
        options: How long and how much.
        folder: An empty one.
        sources: The models, which must count right.
    """
    repository = publish(folder, sources)
    http_port = free_port()
    settings = {
        "http": True,
        "http_port": http_port,
        "num_slots": SLOTS,
        "sequence_idle_timeout_s": IDLE_TIMEOUT_S,
        "max_queue_delay_ms": 60_000,  # nobody is to be refused for want of speed
    }
    with running(repository, folder / LOG, **settings) as server:
        wait_until_empty(server.address)
        before = descriptors(server.pid)
        outcome = strain(server, f"127.0.0.1:{http_port}", options)
        outcome.faults.extend(wait_until_empty(server.address))
        until = time.monotonic() + PATIENCE_S
        while descriptors(server.pid) > before and time.monotonic() < until:
            time.sleep(0.1)
        outcome.descriptors = (before, descriptors(server.pid))
        outcome.rss_bytes.append(server.rss_bytes())
    if outcome.descriptors[1] > before:
        outcome.faults.append("descriptors before and after: {} {}".format(*outcome.descriptors))
    outcome.faults.extend(check_log((folder / LOG).read_text(errors="replace")))
    return outcome


def check_log(log: str) -> list[str]:
    """Faults that the server's log tells of."""
    lines = log.splitlines()
    bad = [i for i, line in enumerate(lines) if " CRITICAL " in line or " ERROR " in line or "Traceback" in line]
    if not bad:
        return []
    first = "\n".join(lines[max(0, bad[0] - 1) : bad[0] + SHOWN_LINES])
    return [f"{len(bad)} bad lines in the server's log, the first of them:\n{first}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, strain, print."""
    parser = argparse.ArgumentParser(
        prog="bench.oip_stress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=Options.clients, help="processes that live to the end")
    parser.add_argument("--crashing", type=int, default=Options.crashing, help="processes that are killed")
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--out", type=Path, help="folder for oip_stress.json and the server's log")
    chosen = parser.parse_args(arguments)
    options = Options(60 * chosen.minutes, chosen.clients, chosen.crashing, chosen.seed)
    with tempfile.TemporaryDirectory(prefix="carryover-oip-stress-") as folder:
        try:
            outcome = run(options, Path(folder))
        finally:
            if chosen.out:
                chosen.out.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(folder) / LOG, chosen.out)
    table = Table(title=f"{chosen.minutes:g} minutes of clients of the Open Inference Protocol")
    table.add_column("")
    table.add_column("", justify="right")
    for name, count in outcome.counts.items():
        table.add_row(name, f"{count:,}")
    table.add_row("client processes killed", f"{outcome.killed:,}")
    table.add_row("resident memory, MiB", " ".join(f"{size / 2**20:.0f}" for size in outcome.rss_bytes[-12:]))
    table.add_row("descriptors before and after", " ".join(map(str, outcome.descriptors)))
    Console().print(table)
    if chosen.out:
        (chosen.out / "oip_stress.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    if outcome.faults:
        raise SystemExit("oip_stress: " + "; ".join(outcome.faults))


if __name__ == "__main__":
    main()
