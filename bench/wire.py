"""One Session stream that may break: commands go in as many to a message as are ready, and each gets its one answer."""

import asyncio
import itertools
from typing import Any

import grpc
import grpc.aio

from protos.carryover.v1 import carryover_pb2 as pb

CALLER_KEY = "carryover-caller"
MOST_COMMANDS = 64  # of one message
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own a channel


class Fault(Exception):
    """What a run found wrong with the service; the message is for whoever started it."""


def first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first of what several tasks have found."""
    found = group.exceptions[0]
    return first_of(found) if isinstance(found, BaseExceptionGroup) else found


class Broken(Exception):
    """The stream ended before the answer came; the command may have taken effect."""


class Wire:
    """A stream on which any number of coroutines ask at once; see the module docstring.

    Args:
        stub: A `CarryoverStub` of an aio channel.
        caller: Whose sessions they are; None: the stream's own.

    Attributes:
        asked: Commands sent, each time counted.
        answered: Answers to them.
        expired: Session names that were said to have expired, in order.
        strays: What came that answers nothing that was asked, or answers it twice: nothing, of a sound server.
    """

    def __init__(self, stub: Any, caller: str | None) -> None:
        metadata = ((CALLER_KEY, caller),) if caller is not None else ()
        self.asked = self.answered = 0
        self.expired: list[str] = []
        self.strays: list[pb.SessionEvent] = []
        self.broken = False
        self._call = stub.Session(metadata=metadata)
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[pb.SessionEvent]] = {}
        self._outgoing: list[pb.SessionCommand] = []
        self._wake = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    @property
    def oldest(self) -> int | None:
        """Number of the command that has waited longest for its answer; None where none waits."""
        return next(iter(self._waiting), None)

    async def ask(self, **action: Any) -> pb.SessionEvent:
        """Send one command, such as `close=pb.CloseSession(...)`, and wait for its answer, errors included.

        Raises:
            Broken: The stream ended first.
        """
        if self.broken:
            raise Broken
        number = next(self._ids)
        answer: asyncio.Future[pb.SessionEvent] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._outgoing.append(pb.SessionCommand(request_id=number, **action))
        self.asked += 1
        self._wake.set()
        return await answer

    def break_off(self) -> None:
        """Cancel the call in the middle of whatever goes on."""
        self._call.cancel()
        self._end()

    async def close(self) -> None:
        """Half-close, and wait until the server has ended the stream."""
        if not self.broken:
            await self._call.done_writing()
            await self._tasks[1]
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self) -> None:
        while not self.broken:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing and not self.broken:
                batch = self._outgoing[:MOST_COMMANDS]
                del self._outgoing[:MOST_COMMANDS]
                try:
                    await self._call.write(pb.SessionRequest(commands=batch))
                except (grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError):
                    self._end()

    async def _read(self) -> None:
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                for event in message.events:
                    self._take(event)
        except (grpc.RpcError, asyncio.CancelledError):
            pass
        self._end()

    def _take(self, event: pb.SessionEvent) -> None:
        if self.broken:  # had been received before the call was cancelled, and nobody waits for it any more
            return
        if event.request_id == 0 and event.WhichOneof("event") == "expired":
            self.expired.append(event.expired.session_id)
            return
        answer = self._waiting.pop(event.request_id, None)
        if answer is None:
            self.strays.append(event)
            return
        self.answered += 1
        if not answer.done():
            answer.set_result(event)

    def _end(self) -> None:
        self.broken = True
        self._wake.set()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(Broken())
