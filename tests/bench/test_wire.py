"""The stream of the identity and soak benchmarks must see every answer that is missing, doubled or out of place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from bench.wire import CALLER_KEY, Broken, Fault, Wire, first_of
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverServicer, CarryoverStub, add_CarryoverServicer_to_server

TIMEOUT_S = 10.0


class Server(CarryoverServicer):
    """Answers closes in any way that a session's name asks for; opens never."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []  # request ids of each message
        self.callers: list[object] = []

    async def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> AsyncIterator[Any]:
        self.callers.append(dict(context.invocation_metadata()).get(CALLER_KEY))
        async for message in requests:
            self.messages.append([command.request_id for command in message.commands])
            events = []
            for command in reversed(message.commands):  # in any order
                name = command.close.session_id
                event = pb.SessionEvent(request_id=command.request_id, closed=pb.SessionClosed(session_id=name))
                events += {"never": [], "twice": [event, event]}.get(name, [event])
                if name == "expired":
                    events.append(pb.SessionEvent(expired=pb.SessionExpired(session_id="gone")))
            yield pb.SessionResponse(events=events)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, Any]]:
    service, server = Server(), grpc.aio.server()  # type: ignore[abstract]  # nobody calls the other methods
    add_CarryoverServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield service, CarryoverStub(channel)
    await server.stop(None)


def close(name: str) -> dict[str, pb.CloseSession]:
    return {"close": pb.CloseSession(session_id=name)}


async def test_each_command_gets_its_own_answer_and_those_that_are_ready_share_a_message() -> None:
    async with serving() as (service, stub), asyncio.timeout(TIMEOUT_S):
        wire = Wire(stub, "caller-of-sixteen")
        answers = await asyncio.gather(*(wire.ask(**close(f"s{i}")) for i in range(100)))
        await wire.close()
    assert [answer.closed.session_id for answer in answers] == [f"s{i}" for i in range(100)]
    assert service.callers == ["caller-of-sixteen"]
    assert [len(message) for message in service.messages] == [64, 36]
    assert (wire.asked, wire.answered, wire.strays, wire.expired, wire.oldest) == (100, 100, [], [], None)


async def test_an_answer_that_comes_twice_and_a_session_that_expired_are_kept_apart() -> None:
    async with serving() as (_, stub), asyncio.timeout(TIMEOUT_S):
        wire = Wire(stub, None)
        await wire.ask(**close("twice"))
        await wire.ask(**close("expired"))
        await wire.close()
    assert [stray.request_id for stray in wire.strays] == [1]
    assert wire.expired == ["gone"]


async def test_what_waits_when_the_stream_breaks_is_told_so_and_nothing_more_is_taken() -> None:
    async with serving() as (_, stub), asyncio.timeout(TIMEOUT_S):
        wire = Wire(stub, None)
        waiting = asyncio.create_task(wire.ask(**close("never")))
        await wire.ask(**close("s"))
        assert wire.oldest == 2  # the task begins when this one waits
        wire.break_off()
        for asking in (waiting, wire.ask(**close("late"))):
            with pytest.raises(Broken):
                await asking
        await wire.close()
    assert (wire.asked, wire.answered) == (2, 1)


def test_the_first_of_many_faults_is_found_in_groups_of_groups() -> None:
    fault = Fault("a")
    groups: list[Exception] = [ExceptionGroup("", [fault]), Fault("b")]
    assert first_of(ExceptionGroup("", groups)) is fault
