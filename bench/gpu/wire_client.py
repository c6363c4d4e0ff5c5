"""Sessions stepped in a closed loop by a plain client in Python, where there is no compiler for the load generator."""

import asyncio
import time
from dataclasses import dataclass

import grpc.aio
import numpy as np

from bench.tokens import token
from bench.wire import Wire, first_of
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub


@dataclass(frozen=True)
class Load:
    """What is asked of the service; the names are the load generator's.

    Args:
        address: host:port.
        model: A language model.
        sessions: All stepped at a time, one step a message.
        streams: That carry them.
        vocabulary: Ids of the model.
        seconds: That count.
        warmup: Seconds before, which do not.
    """

    address: str
    model: str
    sessions: int
    streams: int
    vocabulary: int
    seconds: float
    warmup: float


def step_all(load: Load, timeout_s: float) -> tuple[float, float, float]:
    """Open all sessions and step them; gives steps/s and the latencies of half and of 99% of the steps, in ms.

    Raises:
        RuntimeError: A command was refused.
        TimeoutError: It did not end in time.
    """
    try:
        return asyncio.run(asyncio.wait_for(_step_all(load), timeout_s))
    except ExceptionGroup as group:  # all sessions may have met the same
        raise first_of(group) from None


async def _step_all(load: Load) -> tuple[float, float, float]:
    took: list[float] = []
    opened = asyncio.Barrier(load.sessions)
    async with grpc.aio.insecure_channel(load.address) as channel:
        wires = [Wire(CarryoverStub(channel), None) for _ in range(load.streams)]
        async with asyncio.TaskGroup() as tasks:
            for number in range(load.sessions):
                tasks.create_task(_session(load, wires[number % load.streams], number, opened, took))
        for wire in wires:
            await wire.close()
    p50, p99 = np.percentile(np.array(took) * 1e3, (50, 99)) if took else (0.0, 0.0)
    return len(took) / load.seconds, float(p50), float(p99)


async def _session(load: Load, wire: Wire, number: int, opened: asyncio.Barrier, took: list[float]) -> None:
    answer = await wire.ask(open=pb.OpenSession(model=pb.ModelRef(name=load.model)))
    name = _right(answer).opened.session_id
    await opened.wait()
    counted = time.monotonic() + load.warmup
    step = 0
    while (now := time.monotonic()) < counted + load.seconds:
        inputs = [token(number, step, load.vocabulary)]
        _right(await wire.ask(step=pb.StepSession(session_id=name, token_ids=inputs, num_top=1)))
        if now >= counted:
            took.append(time.monotonic() - now)
        step += 1


def _right(event: pb.SessionEvent) -> pb.SessionEvent:
    if event.WhichOneof("event") == "error":
        raise RuntimeError(f"expected an answer, got code {event.error.code}: {event.error.message}")
    return event
