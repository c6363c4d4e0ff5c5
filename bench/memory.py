"""Memory a session costs, with many open: the server's resident memory against the bytes of state.

A load generator opens sessions over a few streams, steps each of them once, and holds them; the service's resident
memory is read with a few and with many open. Sessions beyond the slots are kept in host memory.
"""

import argparse
import json
import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import grpc
from rich.console import Console

from bench import step_model
from bench.drive import arguments
from bench.report import Report, plain
from bench.server import Server, running
from bench.tokens import FIRST_WORD
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1 import carryover_pb2_grpc as pb_grpc

HOLD_TIMEOUT_S = 900.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `memory`."""
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=4_000, help="sessions of the first reading")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--slots", type=int, default=1024, help="state rows of the server")
    parser.add_argument("--rate", type=float, default=4_000.0, help="steps/s at which each session is stepped once")
    parser.add_argument("--runners", type=int, default=os.cpu_count() or 1)


def describe(server: Server) -> pb.Model:
    """What the server says of the model now."""
    with grpc.insecure_channel(server.address) as channel:
        return pb_grpc.CarryoverStub(channel).GetModel(pb.GetModelRequest(model=pb.ModelRef(name=step_model.NAME)))


def resident(server: Server, sessions: int, options: argparse.Namespace) -> tuple[int, pb.Model]:
    """Open so many sessions, step each once, and read the memory while they are open.

    Raises:
        SystemExit: The generator failed, or not all sessions are open.
    """
    command = arguments(
        "sessions",
        {
            "address": server.address,
            "model": step_model.NAME,
            "sessions": sessions,
            "streams": min(options.streams, sessions),
            "connections": min(options.streams, 4),
            "vocabulary": step_model.VOCABULARY,
            "first_token": FIRST_WORD,
            "rate": options.rate,
            # Arrivals go round the sessions: a little more than one round.
            "seconds": 1.1 * sessions / options.rate + 0.5,
            "warmup": 0,
            "hold": True,
        },
    )
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        said = run.stderr.readline()  # when all is done, or what went wrong
        if said != "holding\n":
            raise SystemExit(f"bench: {said.strip() or 'the load generator ended'}")
        size, model = server.rss_bytes(), describe(server)
        output, _ = run.communicate(timeout=HOLD_TIMEOUT_S)
    stepped = json.loads(output)["stepped"]
    got = f"{model.load.sessions} open and {stepped} stepped"
    if (model.load.sessions, stepped) != (sessions, sessions):
        raise SystemExit(f"bench: expected {sessions} open sessions, each stepped, got {got}")
    return size, model


def measure(options: argparse.Namespace, console: Console) -> Report:
    """Two readings, and what lies between them a session."""
    if not 0 < options.few < options.sessions:
        raise SystemExit(f"bench: --few: expected 1 to {options.sessions - 1}, got {options.few}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-")))
        step_model.publish(folder / "repository")
        server = stack.enter_context(
            running(
                folder / "repository",
                folder / "server.log",
                runners=options.runners,
                num_slots=options.slots,
                max_sessions=2 * options.sessions,
                max_host_state_bytes=2**34,
            )
        )
        console.print(f"{options.few} sessions", style="dim")
        few, _ = resident(server, options.few, options)
        console.print(f"{options.sessions} sessions", style="dim")
        many, model = resident(server, options.sessions, options)
    each = (many - few) / (options.sessions - options.few)
    row = {
        "sessions": options.sessions,
        "RSS MiB, few": few / 2**20,
        "RSS MiB, all": many / 2**20,
        "bytes a session": each,
        "state bytes": model.state_bytes,
        "above its state": each - model.state_bytes,
        "host state MiB": model.load.host_state_bytes / 2**20,
    }
    return Report(
        "memory", "Memory of open sessions", [row], [f"few: {options.few} sessions"], {"options": plain(options)}
    )
