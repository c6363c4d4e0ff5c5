"""The asyncio client's one Session stream: the commands of all its sessions go out on it, those ready together as one.

As `carryover.client.line`, awaited: a message takes whatever was asked for since the last one was written.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import grpc
import grpc.aio

from carryover.client import session_messages as commands
from carryover.client.errors import CarryoverError, DeadlineExceeded, Unavailable, from_rpc_error
from carryover.client.line import FAREWELL_S
from carryover.client.message_room import MessageRoom
from carryover.client.reconnect import Reconnect
from carryover.client.session_core import SessionCore
from protos.carryover.v1 import carryover_pb2 as pb


class _Connection:
    """One stream, until it breaks.

    Args:
        method: The stub's Session method, with the caller's name.
        expired: Told of sessions that the server has ended.
    """

    def __init__(self, method: Callable[[], Any], expired: Callable[[pb.SessionExpired], None]) -> None:
        self._expired = expired
        self._outgoing: list[pb.SessionCommand] = []
        self._wake = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[pb.SessionEvent]] = {}
        self._last_id = 0
        self._finishing = False
        self.end: CarryoverError | None = None
        self._call: Any = method()
        self._task = asyncio.create_task(self._run())

    def send(self, command: pb.SessionCommand) -> "asyncio.Future[pb.SessionEvent]":
        """Send a command; the future gives its answer, or why there is none."""
        answer: asyncio.Future[pb.SessionEvent] = asyncio.get_running_loop().create_future()
        if self.end is not None:
            answer.set_exception(self.end)
            return answer
        self._last_id += 1
        command.request_id = self._last_id
        self._waiting[self._last_id] = answer
        self._outgoing.append(command)
        self._wake.set()
        return answer

    def finish(self) -> None:
        """Half-close the stream; what was sent is still answered."""
        self._finishing = True
        self._wake.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until the stream has ended, or end it."""
        await asyncio.wait([self._task], timeout=timeout_s)
        self._call.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        writing = asyncio.create_task(self._write())
        try:
            await self._read()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            assert self.end is not None
            waiting, self._waiting = list(self._waiting.values()), {}
            for answer in waiting:
                if not answer.done():
                    answer.set_exception(self.end)
                    answer.exception()  # somebody may have stopped waiting: that is no news

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader hears why
            while True:
                while self._outgoing:
                    room = MessageRoom()
                    ready = list(takewhile(room.takes, self._outgoing))
                    del self._outgoing[: len(ready)]
                    await self._call.write(pb.SessionRequest(commands=ready))
                if self._finishing:
                    await self._call.done_writing()
                    return
                self._wake.clear()
                await self._wake.wait()

    async def _read(self) -> None:
        end = CarryoverError("session: expected an answer, got the end of the stream")
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                for event in response.events:
                    if event.WhichOneof("event") == "expired":
                        self._expired(event.expired)
                        continue
                    answer = self._waiting.pop(event.request_id, None)
                    if answer is not None and not answer.done():
                        answer.set_result(event)
            if await self._call.code() is not grpc.StatusCode.OK:
                end = from_rpc_error(await status_of(self._call))
        except grpc.aio.AioRpcError as error:
            end = from_rpc_error(error)
        except asyncio.CancelledError:
            end = CarryoverError("session: expected an answer, got the end of the client")
            if not self._call.cancelled():
                raise
        finally:
            self.end = end


async def status_of(call: Any) -> grpc.aio.AioRpcError:
    """What a stream that was read to its end ended with."""
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )


class AsyncLine:
    """See the module docstring.

    Args:
        method: The stub's Session method, with the caller's name.
        reconnect_s: For how long the commands of sessions are sent again where the connection is lost, in seconds.
    """

    def __init__(self, method: Callable[[], Any], reconnect_s: float) -> None:
        self.reconnect_s = reconnect_s
        self._method = method
        self._connection: _Connection | None = None
        self._leaving: _Connection | None = None  # the last one that was finished: it may have more to send
        self._sessions: dict[str, SessionCore] = {}
        self._users = 0

    def __enter__(self) -> "AsyncLine":
        """Keep the stream open until `__exit__`, which the last one closes it at."""
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users and self._connection is not None:
            self._connection.finish()
            self._connection, self._leaving = None, self._connection

    def watch(self, session: SessionCore) -> None:
        """Have a session told of its end, and closed with the line."""
        self._sessions[session.id] = session

    def unwatch(self, session: SessionCore) -> None:
        """Stop that, unless another object has taken the session over."""
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]

    async def ask(self, command: pb.SessionCommand, timeout_s: float, *, again_s: float = 0.0) -> pb.SessionEvent:
        """Send a command and wait for its answer.

        Args:
            command: Without a number.
            timeout_s: For the answer.
            again_s: For how long it is sent again after a lost connection, in seconds; 0 where it could be done twice.

        Raises:
            DeadlineExceeded: None came.
            CarryoverError: The stream ended, and no other could be had in time.
        """
        reconnect = Reconnect(again_s, time.monotonic() + timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return await self._current().send(command)
                    except Unavailable as loss:
                        pause_s = reconnect.pause_s(loss)
                    await asyncio.sleep(pause_s)
        except TimeoutError:
            raise DeadlineExceeded(
                f"session: expected an answer within {timeout_s:g} s, got none",
                "DEADLINE_EXCEEDED",
                "DEADLINE_EXCEEDED",
            ) from None

    async def begin(self, command: pb.SessionCommand, timeout_s: float) -> pb.SessionEvent:
        """Send a command that starts a session, under a name made up here where it has none, and wait for its answer.

        A session of such a name is closed again where its answer is not waited for to the end. One that the caller
        named is not, as it may be an older one of that name.
        """
        name = commands.made_up_name(command)
        try:
            return await self.ask(command, timeout_s)
        except BaseException as error:
            if name and (isinstance(error, DeadlineExceeded) or not isinstance(error, CarryoverError)):
                self.tell(commands.close_command(name))
            raise

    def tell(self, command: pb.SessionCommand) -> None:
        """Send a command whose answer nobody waits for, if there is a stream."""
        if self._connection is not None:
            _unheard(self._connection.send(command))

    async def close(self, farewell: Callable[[str], pb.SessionCommand]) -> None:
        """End the stream, and the sessions on it that are still open, given the command that ends one."""
        connection, self._connection = self._connection, None
        sessions, self._sessions = list(self._sessions.values()), {}
        if connection is not None:
            for session in sessions:
                _unheard(connection.send(farewell(session.id)))
            connection.finish()
            await connection.wait(FAREWELL_S)
        if self._leaving is not None:
            await self._leaving.wait(FAREWELL_S)

    def _current(self) -> _Connection:
        if self._connection is None or self._connection.end is not None:
            self._connection = _Connection(self._method, self._expired)
        return self._connection

    def _expired(self, event: pb.SessionExpired) -> None:
        session = self._sessions.pop(event.session_id, None)
        if session is not None:
            session._expired(event)


def _unheard(answer: "asyncio.Future[pb.SessionEvent]") -> None:
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
