"""One TagStream as a test talks over it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from protos.carryover.v1 import carryover_pb2 as pb
from tests.service.rpc.world import World

TAGGER = pb.ModelRef(name="tagger")


def asking(*sentences: str, model: pb.ModelRef = TAGGER, priority: int = 0) -> pb.TagRequest:
    sequences = [pb.TokenSequence(tokens=sentence.split()) for sentence in sentences]
    return pb.TagRequest(model=model, sequences=sequences, priority=priority)  # type: ignore[arg-type]


class TagStream:
    """One open stream; answers come in any order."""

    def __init__(self, world: World, timeout_s: float | None = None) -> None:
        self.call: Any = world.stub.TagStream(timeout=timeout_s)
        self.events: list[pb.TagEvent] = []  # read, in order

    async def send(self, *commands: tuple[int, pb.TagRequest]) -> None:
        made = [pb.TagCommand(request_id=request_id, request=request) for request_id, request in commands]
        await self.call.write(pb.TagStreamRequest(commands=made))

    async def read(self, count: int) -> Sequence[pb.TagEvent]:
        """The next events."""
        async with asyncio.timeout(10):
            while len(self.events) < count:
                response = await self.call.read()
                assert response is not grpc.aio.EOF
                assert response.events
                self.events.extend(response.events)
        taken, self.events = self.events[:count], self.events[count:]
        return taken

    async def ask(self, request: pb.TagRequest, request_id: int = 1) -> pb.TagEvent:
        await self.send((request_id, request))
        (event,) = await self.read(1)
        assert event.request_id == request_id
        return event

    async def fails(self, request: pb.TagRequest, request_id: int = 1) -> pb.SessionError:
        event = await self.ask(request, request_id)
        assert event.WhichOneof("event") == "error", event
        return event.error

    async def end(self) -> None:
        """Half-close, and see the stream end."""
        await self.call.done_writing()
        async with asyncio.timeout(10):
            assert await self.call.read() is grpc.aio.EOF
