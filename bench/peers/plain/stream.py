"""A plain grpc.aio server of the Session stream: a table of states and a dynamic batch, an hour's work.

It speaks as much of carryover.v1 as the load generator says: open, and step by one token.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np
import uvloop

from bench.peers.options import Options, read_options
from bench.peers.table import StateTable
from protos.carryover.v1 import carryover_pb2 as pb

SERVICE = "carryover.v1.Carryover"


@dataclass
class Session:
    """Its number in the table and how many steps it was asked for."""

    number: int
    steps: int = 0


@dataclass(frozen=True)
class Waiting:
    """A step that waits for a batch, and the stream that waits for it."""

    outbox: "asyncio.Queue[pb.SessionEvent]"
    request_id: int
    session_id: str
    request: tuple[int, int, int]


class Batcher:
    """Runs what waits, as much as a batch holds, in a thread; more gathers meanwhile."""

    def __init__(self, table: StateTable, max_batch: int) -> None:
        self.table, self.max_batch = table, max_batch
        self.waiting: list[Waiting] = []
        self.arrived = asyncio.Event()

    def add(self, waiting: Waiting) -> None:
        self.waiting.append(waiting)
        self.arrived.set()

    async def run(self) -> None:
        while True:
            await self.arrived.wait()
            batch, self.waiting = self.waiting[: self.max_batch], self.waiting[self.max_batch :]
            if not self.waiting:
                self.arrived.clear()
            requests = np.array([one.request for one in batch], np.int64)
            answers = await asyncio.to_thread(self.table.step, requests)
            for one, (token, log_prob) in zip(batch, answers.tolist(), strict=True):
                output = pb.StepOutput(token_ids=[int(token)], log_probs=[log_prob])
                stepped = pb.SessionStepped(session_id=one.session_id, outputs=[output], num_steps=one.request[1] + 1)
                one.outbox.put_nowait(pb.SessionEvent(request_id=one.request_id, stepped=stepped))


class Front:
    """The one call."""

    def __init__(self, batcher: Batcher, capacity: int) -> None:
        self.batcher = batcher
        self.free = list(range(capacity))

    async def session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> None:
        outbox: asyncio.Queue[pb.SessionEvent] = asyncio.Queue()
        sessions: dict[str, Session] = {}
        writer = asyncio.create_task(self._write(outbox, context))
        try:
            async for request in requests:
                for command in request.commands:
                    self._take(command, sessions, outbox)
        finally:
            writer.cancel()
            self.free += [session.number for session in sessions.values()]

    def _take(
        self, command: pb.SessionCommand, sessions: dict[str, Session], outbox: "asyncio.Queue[pb.SessionEvent]"
    ) -> None:
        if command.WhichOneof("action") == "open":
            session = Session(self.free.pop())
            name = f"s{session.number}"
            sessions[name] = session
            opened = pb.SessionOpened(session_id=name)
            outbox.put_nowait(pb.SessionEvent(request_id=command.request_id, opened=opened))
            return
        step = command.step
        session = sessions[step.session_id]
        (token,) = step.token_ids
        self.batcher.add(Waiting(outbox, command.request_id, step.session_id, (session.number, session.steps, token)))
        session.steps += 1

    @staticmethod
    async def _write(outbox: "asyncio.Queue[pb.SessionEvent]", context: Any) -> None:
        while True:
            events = [await outbox.get()]
            while not outbox.empty():
                events.append(outbox.get_nowait())
            await context.write(pb.SessionResponse(events=events))


async def serve(options: Options) -> None:
    capacity = 1024
    batcher = Batcher(StateTable(options.graph, options.threads, capacity), options.max_batch)
    running = asyncio.create_task(batcher.run())
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        Front(batcher, capacity).session, pb.SessionRequest.FromString, pb.SessionResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Session": handler}),))
    server.add_insecure_port(f"127.0.0.1:{options.port}")
    await server.start()
    await running


if __name__ == "__main__":
    uvloop.run(serve(read_options()))
