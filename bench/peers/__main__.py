"""The service beside other servers: same model and machine, every answer compared with the right one.

    bash bench/peers/litserve/install.sh                                        # once, each in its own environment
    python -m bench.peers litserve                                              # or several names, or all
    python -m bench.peers all --rounds 3 --seconds 5 --sessions 64

One step a message. Service and peer take turns: service, peer, service, the next peer, and so on, round by round. The
ratio is that of the service's rate to the rate of the peer just after. A peer that answers wrong, fails or loses the
order of a session's steps is told so and not timed. Peers that listen on all interfaces are run in a network of their
own (unshare, of util-linux).
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from bench import step_model
from bench.peers import graph, isolate
from bench.peers.answers import RightAnswers
from bench.peers.catalogue import ENVIRONMENTS, OURS, PEERS, Peer
from bench.peers.measure import Result, measure, probe
from bench.peers.process import PeerError, running
from bench.peers.report import Report, show
from bench.server import free_port
from bench.server import running as running_service

ROOT = Path(__file__).parents[2]


class Suite:
    """The model, what is right, and how to start whom.

    Args:
        folder: For the model and the logs.
        options: The command line.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        bundle = step_model.publish(folder / "repository")
        self.graph = graph.write(bundle, folder / "plain_step.onnx")
        self.right = RightAnswers(self.graph, ENVIRONMENTS)

    def run(self, peer: Peer) -> dict[int, Result]:
        """One turn of a server; results by number of sessions.

        Raises:
            PeerError: It did not start, or an answer was wrong.
        """
        with self.serving(peer) as port:
            results = {
                sessions: measure(
                    peer, port, sessions, self.options.seconds, self.options.warmup, self.right, step_model.NAME
                )
                for sessions in self.options.sessions
            }
        self.right.save()
        return results

    @contextlib.contextmanager
    def serving(self, peer: Peer) -> Iterator[int]:
        """Start a server for the time of a `with`; yields its port."""
        log = self.folder / f"{peer.name}.log"
        if not peer.environment:
            slots = 2 + 2 * max(64, *self.options.sessions)
            with running_service(self.folder / "repository", log, num_slots=slots) as server:
                yield int(server.address.rpartition(":")[2])
            return
        port = free_port()
        settings = {
            "graph": self.graph,
            "port": port,
            "threads": self.options.threads or peer.threads,
            "max-batch": peer.max_batch,
            "wait-ms": peer.wait_ms if self.options.wait_ms is None else self.options.wait_ms,
        }
        command = [str(peer.python), "-m", peer.module]
        for name, value in settings.items():
            command += [f"--{name}", str(value)]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with running(command, log, lambda: probe(peer, port, self.right), **environment):
            yield port


def run(peers: Sequence[Peer], options: argparse.Namespace, console: Console) -> list[Report]:
    """All turns of all rounds."""
    reports = [Report(peer.name, peer.title) for peer in peers]
    with tempfile.TemporaryDirectory(prefix="carryover-peers-") as folder:
        suite = Suite(Path(folder), options)
        for number in range(options.rounds):
            for peer, report in zip(peers, reports, strict=True):
                if report.fault:
                    continue
                console.print(f"round {number + 1} of {options.rounds}: {peer.title}", style="dim")
                ours = {} if options.only_peers else suite.run(OURS)
                try:
                    theirs = suite.run(peer)
                except PeerError as error:
                    report.fault = str(error)
                    console.print(escape(f"{peer.title}: {error}"), style="red")
                    continue
                report.turns.append((ours, theirs))
    return reports


def choose(names: Sequence[str]) -> list[Peer]:
    """The peers of these names.

    Raises:
        SystemExit: There is none of that name.
    """
    known = {peer.name: peer for peer in PEERS}
    if unknown := [name for name in names if name != "all" and name not in known]:
        raise SystemExit(f"bench.peers: expected one of {', '.join(known)} or all, got {unknown[0]}")
    return list(PEERS) if "all" in names else [known[name] for name in names]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(peer.name for peer in PEERS)} or all")
    parser.add_argument("--sessions", type=int, nargs="+", default=[64], help="numbers of sessions, in turn")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pair is measured; medians are printed")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement, in seconds")
    parser.add_argument("--warmup", type=float, default=2.0, help="before each measurement, in seconds")
    parser.add_argument("--threads", type=int, help="intra-op threads of the peers, in place of what suits each")
    parser.add_argument("--wait-ms", type=float, help="the same for how long their batches wait, in ms")
    parser.add_argument("--only-peers", action="store_true", help="leave the service out, to try a peer")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure and print; see the module docstring."""
    options = parse(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=150)
    peers = choose(options.names)
    for peer in peers:
        if not peer.python.exists():
            console.print(f"{peer.title} is not installed: bash bench/peers/{peer.environment}/install.sh", style="red")
    peers = [peer for peer in peers if peer.python.exists()]
    if any(peer.everywhere for peer in peers) and not isolate.isolated():
        isolate.enter(arguments)  # comes back only where that is not allowed
        for peer in peers:
            if peer.everywhere:
                console.print(f"{peer.title} listens on all interfaces, and unshare is refused: left out", style="red")
        peers = [peer for peer in peers if not peer.everywhere]
    if not peers:
        raise SystemExit("bench.peers: no peer to measure")
    reports = run(peers, options, console)
    show(reports, console)
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        settings: dict[str, Any] = {"machine": machine, "seconds": options.seconds, "rounds": options.rounds}
        rows = [asdict(row) for report in reports for row in report.rows()]
        faults = {report.name: report.fault for report in reports if report.fault}
        options.json.write_text(json.dumps(settings | {"rows": rows, "faults": faults}, indent=2) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # which ends what was started
    main(sys.argv[1:])
