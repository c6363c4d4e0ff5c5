"""Messages of one stream, in and out, without a task that waits for each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from service.rpc.completion.call import ServerCall

log = logging.getLogger(__name__)


class Wire(Protocol):
    """How a stream hears and speaks."""

    def receive(self, take: Callable[[Any], None]) -> None:
        """Have `take` called with the next message, one at a time.

        Where none comes it is called with grpc.aio.EOF, and where there was none that can be read with an exception.
        """

    def send(self, payload: bytes, sent: Callable[[bool], None]) -> None:
        """Send serialised bytes; `sent` is called once others may follow, with whether these went. One at a time.

        Raises:
            grpc.aio.InternalError: The call has ended.
        """

    def stop(self) -> None:
        """Stop waiting: the stream has ended."""


class TaskWire:
    """The wire of a call that grpc.aio serves."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, take: Callable[[Any], None]) -> None:
        """As of `Wire`."""

        async def read() -> None:
            try:
                message = await self._context.read()
            except Exception as error:  # the stream ends with it, whatever it is
                message = error
            take(message)

        self._start(read())

    def send(self, payload: bytes, sent: Callable[[bool], None]) -> None:
        """As of `Wire`."""

        async def write() -> None:
            try:
                await self._context.write(payload)
            except Exception:  # most often: the caller has gone
                log.debug("a message could not be sent", exc_info=True)
                sent(False)
            else:
                sent(True)

        self._start(write())

    def stop(self) -> None:
        """Stop waiting."""
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def wire_of(context: Any) -> Wire:
    """The wire of a call."""
    return context if isinstance(context, ServerCall) else TaskWire(context)
