"""One Session stream as a test talks over it."""

import asyncio
from typing import Any

import grpc.aio

from protos.carryover.v1 import carryover_pb2 as pb
from tests.service.rpc.world import World, wait_until

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"


def message(request_id: int, **action: Any) -> pb.SessionRequest:
    """A message of one command."""
    return pb.SessionRequest(commands=[pb.SessionCommand(request_id=request_id, **action)])


async def only(call: Any) -> pb.SessionEvent:
    """Read a message that must have one event."""
    (event,) = (await call.read()).events
    assert isinstance(event, pb.SessionEvent)
    return event


class Stream:
    """One open Session stream, with an answer for each request asked for by number."""

    def __init__(self, world: World, caller: str | None = None) -> None:
        metadata = None if caller is None else (("carryover-caller", caller),)
        self.call: Any = world.stub.Session(metadata=metadata)
        self.last = 0
        self.early: list[pb.SessionEvent] = []  # read and not asked for

    async def send(self, **action: Any) -> int:
        self.last += 1
        await self.raw(self.last, **action)
        return self.last

    async def raw(self, request_id: int, **action: Any) -> None:
        await self.call.write(message(request_id, **action))

    async def read(self) -> pb.SessionEvent:
        """The next event, whatever it answers."""
        if not self.early:
            async with asyncio.timeout(60):
                got = await self.call.read()
            assert got is not grpc.aio.EOF
            self.early.extend(got.events)
        return self.early.pop(0)

    async def answer(self, request_id: int) -> pb.SessionEvent:
        others = []
        while (event := await self.read()).request_id != request_id:
            others.append(event)
        self.early = others + self.early
        return event

    async def ask(self, **action: Any) -> pb.SessionEvent:
        return await self.answer(await self.send(**action))

    async def open(self, model: str = "lm") -> str:
        return (await self.ask(open=opening(model))).opened.session_id

    async def step(self, session: str, *ids: int, num_top: int = 1) -> pb.SessionStepped:
        got = await self.ask(step=pb.StepSession(session_id=session, token_ids=ids, num_top=num_top))
        assert got.WhichOneof("event") == "stepped", got
        return got.stepped

    async def fails(self, **action: Any) -> pb.SessionError:
        got = await self.ask(**action)
        assert got.WhichOneof("event") == "error", got
        return got.error


def number(session: str) -> int:
    """The engine's id of a session whose name was made up."""
    return int(session.removeprefix("s"))


def opening(model: str, version: int = 0) -> pb.OpenSession:
    return pb.OpenSession(model=pb.ModelRef(name=model, version=version))


def step_of(session: str, **fields: Any) -> dict[str, Any]:
    return {"step": pb.StepSession(session_id=session, **fields)}


def named(name: str, model: str = "lm", **fields: Any) -> dict[str, Any]:
    """Open a session that the caller has a name for."""
    return {"open": pb.OpenSession(model=pb.ModelRef(name=model), session_id=name, **fields)}


async def gone(world: World, stream: Stream) -> None:
    """Break a stream and wait until the server has noticed."""
    before = world.server.in_flight
    stream.call.cancel()
    await wait_until(lambda: world.server.in_flight < before)
