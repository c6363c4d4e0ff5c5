"""One call as its handler sees it.

What handlers use of grpc.aio's ServicerContext, and a way to receive and send messages without a task that waits:
whoever has a stream with thousands of messages a second gets each by a callback. Everything runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from service.rpc.completion.core import (
    NO_FLAGS,
    ReceiveCloseOnServer,
    ReceiveMessage,
    SendInitialMetadata,
    SendMessage,
    SendStatus,
)

_END_OF_TIME_S: Final = 1e11  # as a Unix time; gRPC's own for calls without a deadline lies beyond

Metadata = tuple[tuple[str, str | bytes], ...]


class CallOver(grpc.aio.InternalError):
    """Something was sent on a call that is over."""


class Unreadable(Exception):
    """Bytes that came where a message was expected."""


class ServerCall:
    """See the module docstring.

    Args:
        loop: Whose thread this is.
        event: Of the call's arrival.
        parse: Makes a message of bytes; whoever takes messages gets an `Unreadable` where it fails.
        serialize: Makes bytes of an answer.

    Attributes:
        task: What serves it; cancelled when the caller goes away.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        event: Any,
        parse: Callable[[bytes], Any] | None = None,
        serialize: Callable[[Any], bytes] | None = None,
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        self._loop = loop
        self._call = event.call
        self._metadata: Metadata = event.invocation_metadata
        self._deadline_s: float = event.call_details.deadline  # Unix time
        self._parse = parse
        self._serialize = serialize
        self._taking: Callable[[Any], None] | None = None  # who gets the next message
        self._sending: Callable[[bool], None] | None = None  # who is told when it has gone
        self._begun = False  # whether the initial metadata was sent
        self._read_all = False
        self._ended = False  # whether the status was sent
        self._cancelled = False
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Metadata = ()
        self._callbacks: list[Callable[[ServerCall], None]] = []
        self._start(self._closed, ReceiveCloseOnServer(NO_FLAGS))

    # ------------------------------------------------------------------------------------------------- without a task

    def receive(self, take: Callable[[Any], None]) -> None:
        """Have `take` called with the next message, or with grpc.aio.EOF where none comes; one at a time.

        Raises:
            grpc.aio.UsageError: One is being waited for.
        """
        if self._read_all:
            self._loop.call_soon(take, grpc.aio.EOF)
            return
        self._start(self._received, ReceiveMessage(NO_FLAGS))
        self._taking = take

    def send(self, payload: bytes, sent: Callable[[bool], None]) -> None:
        """Send serialised bytes; `sent` is called once others may follow, with whether these went. One at a time.

        Raises:
            CallOver: The call has ended.
            grpc.aio.UsageError: One is on its way.
        """
        if self._ended or self._cancelled:
            raise CallOver("the call is over")
        self._start(self._sent, *self._beginning(), SendMessage(payload, NO_FLAGS))
        self._begun = True
        self._sending = sent

    def stop(self) -> None:
        """Stop waiting: what comes now is of no use to anybody."""
        self._taking = self._sending = None

    def _received(self, event: Any) -> None:
        data = event.batch_operations[0].message()
        take, self._taking = self._taking, None
        if take is None:  # nobody waits for it any more
            return
        if data is None:
            self._read_all = True
            take(grpc.aio.EOF)
        else:
            take(self._parsed(data))

    def _parsed(self, data: bytes) -> Any:
        try:
            return data if self._parse is None else self._parse(data)
        except Exception:  # whatever it is that parses
            return Unreadable(f"expected a message of this method, got {len(data)} bytes that are not")

    def _sent(self, event: Any) -> None:
        sent, self._sending = self._sending, None
        if sent is not None:
            sent(event.success)

    def _closed(self, event: Any) -> None:
        """Take the end of the call as its caller sees it: it has the status, or it has gone."""
        if event.batch_operations[0].cancelled():
            self._cancelled = True
            if self.task is not None and not self._ended:
                self.task.cancel()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def _beginning(self) -> tuple[Any, ...]:
        """The operation that goes before the first message or the status."""
        return () if self._begun else (SendInitialMetadata((), NO_FLAGS),)

    def _start(self, tag: Callable[[Any], None], *operations: Any) -> None:
        """Start operations; `tag` is called with the event of their end.

        Raises:
            grpc.aio.UsageError: gRPC takes none of them, and will not call `tag`.
        """
        code = self._call.start_server_batch(operations, tag)
        if code:
            kinds = ", ".join(type(operation).__name__ for operation in operations)
            raise grpc.aio.UsageError(f"expected operations that the call can take now, got {kinds} (error {code})")

    def _going(self, *operations: Any) -> asyncio.Future[bool]:
        """Start operations; the future says whether they went.

        Raises:
            grpc.aio.UsageError: gRPC takes none of them.
        """
        ended: asyncio.Future[bool] = self._loop.create_future()
        self._start(lambda event: None if ended.done() else ended.set_result(event.success), *operations)
        return ended

    # ---------------------------------------------------------------------------------- as of grpc.aio.ServicerContext

    async def read(self) -> Any:
        """The next message; grpc.aio.EOF where none comes.

        Raises:
            Unreadable: Bytes came that are none.
        """
        coming: asyncio.Future[Any] = self._loop.create_future()
        self.receive(lambda got: None if coming.done() else coming.set_result(got))
        message = await coming
        if type(message) is Unreadable:
            raise message
        return message

    async def write(self, message: Any) -> None:
        """Send a message.

        Raises:
            CallOver: The call has ended.
        """
        gone: asyncio.Future[bool] = self._loop.create_future()
        self.send(self._bytes(message), lambda went: None if gone.done() else gone.set_result(went))
        if not await gone:
            raise CallOver("the call is over")

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Send the metadata that comes before the first message.

        Raises:
            CallOver: The call has ended.
            grpc.aio.UsageError: It was sent.
        """
        if self._begun:
            raise grpc.aio.UsageError("expected to send the initial metadata first, and once")
        going = self._going(SendInitialMetadata(tuple(metadata), NO_FLAGS))
        self._begun = True
        if not await going:
            raise CallOver("the call is over")

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> None:
        """End the call with an error.

        Raises:
            grpc.aio.AbortError: Always, once it has been told.
            CallOver: The call was over.
            grpc.aio.UsageError: It has a status.
        """
        await self.end(code, details or self._details, tuple(trailing_metadata) or self._trailing)
        raise grpc.aio.AbortError("ended with an error")

    async def end(self, code: grpc.StatusCode, details: str, trailing: Metadata, *answer: Any) -> None:
        """Send the status, and before it the answer of a call that has one.

        Raises:
            CallOver: The call was over.
            grpc.aio.UsageError: It has a status.
        """
        if self._ended:
            raise grpc.aio.UsageError("expected one status, got another")
        messages = [SendMessage(self._bytes(one), NO_FLAGS) for one in answer]
        status = SendStatus(trailing, code.value[0], details.encode(), NO_FLAGS)
        going = self._going(*self._beginning(), *messages, status)
        self._begun = self._ended = True
        if not await going:
            raise CallOver("the call is over")

    async def end_well(self, *answer: Any) -> None:
        """Send the status that was set, or the answer and OK.

        Raises:
            CallOver: The call was over.
            grpc.aio.UsageError: It has a status.
        """
        code = self._code or grpc.StatusCode.OK
        await self.end(code, self._details, self._trailing, *(answer if code is grpc.StatusCode.OK else ()))

    def invocation_metadata(self) -> Metadata:
        """What the caller sent with its call."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None where it has none."""
        if math.isinf(self._deadline_s) or self._deadline_s > _END_OF_TIME_S:
            return None
        return max(0.0, self._deadline_s - time.time())

    def peer(self) -> str:
        """Where the caller is."""
        address = self._call.peer()
        return address.decode() if isinstance(address, bytes) else str(address)

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status to end with."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the text to end with."""
        self._details = details

    def set_trailing_metadata(self, trailing_metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Set the metadata to end with."""
        self._trailing = tuple(trailing_metadata)

    def done(self) -> bool:
        """Whether it has a status or its caller has gone."""
        return self._ended or self._cancelled

    def cancelled(self) -> bool:
        """Whether its caller has gone."""
        return self._cancelled

    def add_done_callback(self, callback: Callable[[ServerCall], None]) -> None:
        """Have something called when the call has ended."""
        self._callbacks.append(callback)

    def _bytes(self, message: Any) -> bytes:
        return message if self._serialize is None else self._serialize(message)
