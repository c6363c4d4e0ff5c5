"""What a server says of itself, and waiting, for a bounded time, until it says what a test waits for."""

import time
from collections.abc import Callable
from typing import Any

from carryover.client.sync import Client
from carryover.client.types import ModelLoad
from tests.system.oip.doors import Stream, numbers
from tests.system.oip.server import Server

PATIENCE_S = 100.0  # machines that run tests stand still at times


def load(server: Server, model: str) -> ModelLoad:
    """What a model is doing."""
    with Client(server.grpc, timeout_s=PATIENCE_S) as client:
        return client.model(model).load


def in_flight(server: Server, model: str) -> int:
    """Requests of a model that wait or run."""
    seen = load(server, model)
    return seen.waiting + seen.running


def until(told: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Ask again and again until it is so."""
    deadline = time.monotonic() + patience_s
    while not told():
        assert time.monotonic() < deadline, f"expected within {patience_s:g} s: {what}"
        time.sleep(0.005)


def until_idle(server: Server, model: str, sessions: int = 0) -> None:
    """Wait until nothing of a model waits or runs and so many sessions are open."""
    with Client(server.grpc, timeout_s=PATIENCE_S) as client:

        def idle() -> bool:
            seen = client.model(model).load
            return (seen.waiting, seen.running, seen.sessions) == (0, 0, sessions)

        until(idle, f"{model} idle with {sessions} sessions, got {client.model(model).load}")


def hold(server: Server, stream: Stream, sequence: int, work: float, model: str = "accumulator-slow") -> None:
    """Keep the model's only runner busy for about `work` milliseconds; comes back when it is.

    The answer of this sequence, which has one step of value 0, comes from the stream as `held`.
    """
    before = load(server, model).running
    marks = {"sequence_id": sequence, "sequence_start": True, "sequence_end": True}
    stream.send(model, numbers(0, work), (), request_id="held", **marks)
    until(lambda: load(server, model).running > before, "the runner at work")


def statistics(client: Any, model: str) -> Any:
    """ModelStatistics of a model's only version, by a gRPC client."""
    (found,) = client.get_inference_statistics(model).model_stats
    return found


def histogram(client: Any, model: str) -> dict[int, int]:
    """Runs so far by their number of rows."""
    return {entry.batch_size: entry.compute_infer.count for entry in statistics(client, model).batch_stats}


def runs_since(client: Any, model: str, before: dict[int, int]) -> dict[int, int]:
    """Runs by their number of rows since a histogram was taken."""
    now = histogram(client, model)
    return {rows: count - before.get(rows, 0) for rows, count in sorted(now.items()) if count != before.get(rows, 0)}
