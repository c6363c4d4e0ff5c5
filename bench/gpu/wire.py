"""Steps a second through gRPC: the service as a process, sessions stepped in a closed loop, one step a message.

The load comes from `bench/generator` where there is a compiler, and elsewhere from a plain client in Python, which is
slower than the service and says so. Commands that become ready together share a message, as the clients send them.
"""

import itertools
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Final

from bench.drive import build, drive
from bench.gpu import models
from bench.gpu.journal import NOTE, reason_of
from bench.gpu.plan import Context
from bench.gpu.wire_client import Load, step_all
from bench.report import Row
from bench.server import Server, running
from bench.tokens import FIRST_WORD

TABLE: Final = "steps/s through gRPC, one step a message, closed loop"
_CONNECTIONS: Final = 4
_QUEUE_DELAY_MS: Final = 60_000  # nobody is refused: what is asked for is how much is answered
_IN_FLIGHT: Final = 1024  # a stream, as the service has it unless told otherwise


def show(context: Context) -> None:
    """The part: one server with graphs captured, and one without for fp32 alone."""
    try:
        build()
        generator = True
    except SystemExit as error:
        generator = False
        context.journal.note(f"the load comes from a client in Python, which is slow: {reason_of(error)}")
    for graphs in ("on", "off"):
        try:
            _served(context, graphs, generator)
        except (Exception, SystemExit) as error:  # the server did not come up, say
            context.journal.row(TABLE, {"graphs": graphs, NOTE: reason_of(error)})


def _served(context: Context, graphs: str, generator: bool) -> None:
    context.budget.need(8 * context.size.wire_seconds)
    size, repository = context.size, models.timed(context.models)
    most = max(size.sessions)
    settings: dict[str, object] = {
        "provider": "cuda" if context.on_card else "cpu",
        "cuda_graphs": "true" if graphs == "on" else "false",
        "num_slots": max(8, most * 4 // 3 + 8),
        "max_queue_delay_ms": _QUEUE_DELAY_MS,
        "max_requests_in_flight_per_stream": max(_IN_FLIGHT, most),
    }
    log = context.work / f"server-{graphs}.log"
    with ExitStack() as stack:
        server = stack.enter_context(running(repository, log, **settings))
        precisions = models.PRECISIONS if graphs == "on" else models.PRECISIONS[:1]
        for sessions, hidden, precision in itertools.product(size.sessions, size.hiddens, precisions):
            name = models.step_name(hidden, precision)
            head: Row = {"hidden": hidden, "precision": precision, "graphs": graphs, "sessions": sessions}
            context.journal.attempt(TABLE, head, partial(_row, context, server, name, sessions, generator))


def _row(context: Context, server: Server, name: str, sessions: int, generator: bool) -> Row:
    size = context.size
    models.bundle(models.timed(context.models), name)
    warmup_s = size.wire_seconds / 4
    context.budget.need(2 * size.wire_seconds)
    streams = min(sessions, size.streams)
    load = Load(server.address, name, sessions, streams, size.vocabulary, size.wire_seconds, warmup_s)
    cpu_s = server.cpu_s()
    if generator:
        phase = drive(
            "sessions",
            max(1.0, context.budget.left),
            **asdict(load),
            connections=min(streams, _CONNECTIONS),
            first_token=FIRST_WORD,
            opening=_IN_FLIGHT,
        )["phases"][0]
        rate, latency, share = phase["units_per_s"], phase["latency_ms"], phase["cpu_share"]
        p50, p99 = latency["p50"], latency["p99"]
    else:
        rate, p50, p99 = step_all(load, max(1.0, context.budget.left))
        share = None
    return {
        "steps/s": rate,
        "p50 ms": p50,
        "p99 ms": p99,
        "streams": streams,
        "server CPU": (server.cpu_s() - cpu_s) / (size.wire_seconds + warmup_s),
        "generator CPU": share,
    }
