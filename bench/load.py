"""The load generator: closed-loop sessions over gRPC streams, in a process of its own.

    python -m bench.load ADDRESS MODEL SESSIONS SECONDS STEPS_PER_MESSAGE STREAMS VOCABULARY

Every session sends its next message when the answer to the last one has come. Prints one JSON object: steps/s, message
latencies in ms, the best next token of every step of two sessions (to be checked against the ceiling), and this
process's own CPU share, so that a generator that became the bottleneck shows.
"""

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio
import uvloop

from bench.tokens import token
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub

CHECKED_STEPS = 200  # of the first and the last session


class Driver:
    """One stream that carries the sessions `first`, `first + stride`, ... below `sessions`."""

    def __init__(
        self, model: str, numbers: list[int], steps: int, vocabulary: int, checked: dict[int, list[int]]
    ) -> None:
        self.model, self.numbers, self.steps, self.vocabulary, self.checked = model, numbers, steps, vocabulary, checked
        self.taken = dict.fromkeys(numbers, 0)
        self.ids: dict[int, str] = {}
        self.sent: dict[int, float] = {}
        self.latencies_ms: list[float] = []
        self.counted_steps = 0

    async def open(self, stub: Any) -> None:
        """Open the stream and its sessions."""
        self.call = stub.Session()
        for number in self.numbers:
            await self.call.write(
                pb.SessionRequest(request_id=number, open=pb.OpenSession(model=pb.ModelRef(name=self.model)))
            )
        for _ in self.numbers:
            answer = await self.call.read()
            if answer is grpc.aio.EOF or answer.WhichOneof("event") != "opened":
                raise SystemExit(f"load: expected an opened session, got {answer}")
            self.ids[answer.request_id] = answer.opened.session_id

    async def _send(self, number: int) -> None:
        first = self.taken[number]
        tokens = [token(number, first + i, self.vocabulary) for i in range(self.steps)]
        self.sent[number] = time.perf_counter()
        step = pb.StepSession(session_id=self.ids[number], token_ids=tokens, num_top=1)
        await self.call.write(pb.SessionRequest(request_id=number, step=step))

    async def run(self, warm_until: float, until: float) -> None:
        """Keep every session busy until `until`; count what is answered after `warm_until` (perf_counter, s)."""
        for number in self.numbers:
            await self._send(number)
        for_answers = len(self.numbers)
        while for_answers:
            answer = await self.call.read()
            now = time.perf_counter()
            if answer is grpc.aio.EOF or answer.WhichOneof("event") != "stepped":
                raise SystemExit(f"load: expected a stepped session, got {answer}")
            number = answer.request_id
            self.taken[number] += self.steps
            if number in self.checked and len(self.checked[number]) < CHECKED_STEPS:
                self.checked[number].extend(output.token_ids[0] for output in answer.stepped.outputs)
            if warm_until <= now <= until:
                self.counted_steps += self.steps
                self.latencies_ms.append((now - self.sent[number]) * 1e3)
            if now < until:
                await self._send(number)
            else:
                for_answers -= 1
        await self.call.done_writing()
        while await self.call.read() is not grpc.aio.EOF:
            pass


async def drive(
    address: str, model: str, sessions: int, seconds: float, steps: int, streams: int, vocabulary: int
) -> dict[str, object]:
    """Load one server; see the module docstring."""
    streams = min(streams, sessions)
    checked: dict[int, list[int]] = {0: [], sessions - 1: []}
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = CarryoverStub(channel)  # the generated types know the blocking stub only
        drivers = [Driver(model, list(range(i, sessions, streams)), steps, vocabulary, checked) for i in range(streams)]
        await asyncio.gather(*(driver.open(stub) for driver in drivers))
        begin, cpu = time.perf_counter(), time.process_time()
        warm = begin + min(1.0, seconds / 4)
        await asyncio.gather(*(driver.run(warm, warm + seconds) for driver in drivers))
        share = (time.process_time() - cpu) / (time.perf_counter() - begin)
    return {
        "steps_per_s": sum(driver.counted_steps for driver in drivers) / seconds,
        "latencies_ms": sorted(latency for driver in drivers for latency in driver.latencies_ms),
        "checked": checked,
        "cpu_share": share,
    }


if __name__ == "__main__":
    address, model, *numbers = sys.argv[1:]
    sessions, seconds, steps, streams, vocabulary = numbers
    print(
        json.dumps(
            uvloop.run(drive(address, model, int(sessions), float(seconds), int(steps), int(streams), int(vocabulary)))
        )
    )
