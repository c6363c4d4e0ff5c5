"""The Session call: one stream, many sessions, many commands in flight.

Two parts run side by side for each stream. The reader takes messages and submits their commands; the engines' events
turn into answers as they come; the writer sends all that are ready as one message. A command counts as in flight until
its answer has been handed to gRPC, and with too much in flight the stream is read no further: a caller that does not
read its answers is stopped by flow control, costs a bounded amount of memory, and is cut off in the end.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import grpc.aio

from service.errors import InvalidInput, Overloaded, ShuttingDown
from service.rpc.boundary import RETRY_AFTER_S, Context, Malformed, deadline_s
from service.rpc.callers import Caller, Callers
from service.rpc.models import Models
from service.rpc.outbox import Outbox
from service.rpc.session_commands import Commands
from service.settings import Settings

DRAIN_POLL_S = 0.02  # only between the start of a shutdown and the end of the stream


async def session(
    models: Models, settings: Settings, callers: Callers, draining: asyncio.Event, requests: object, context: Context
) -> None:
    """Serve one stream; see the proto for what it promises."""
    caller = callers.enter(cast(Iterable[tuple[str, str | bytes]], context.invocation_metadata() or ()))
    stream = SessionStream(models, settings, caller, draining, context)
    parts = [asyncio.create_task(part) for part in (stream.read(), stream.write(), stream.watch_for_drain())]
    try:
        await stream.first_of(parts)
        if parts[0].done():  # the caller has sent all: what is in flight is still answered
            stream.finish_writing()
            await stream.first_of(parts[1:2])
    finally:
        for part in parts:
            part.cancel()
        stream.abandon()
        callers.leave(caller)
        await asyncio.gather(*parts, return_exceptions=True)


class SessionStream:
    """The state of one stream. Everything runs on the event loop.

    Args:
        models: What can be opened.
        settings: Its limits.
        caller: Whose it is.
        draining: Set once the service admits nothing new.
        context: gRPC's stream.

    Attributes:
        cut_off: Done once the caller has not read for too long.
    """

    def __init__(
        self, models: Models, settings: Settings, caller: Caller, draining: asyncio.Event, context: Context
    ) -> None:
        self._context = context
        self._caller = caller
        self._draining = draining
        self._outbox = Outbox(settings.max_requests_in_flight_per_stream)
        self._commands = Commands(models, settings, caller, draining, self._outbox, deadline_s(context))
        self._loop = asyncio.get_running_loop()
        self._read_all = False
        self._patience_s = settings.slow_reader_timeout_s
        self._writing_since_s: float | None = None  # on the loop's clock
        self._watch: asyncio.TimerHandle | None = None
        self.cut_off: asyncio.Future[None] = self._loop.create_future()

    # ------------------------------------------------------------------------------------------------------- the parts

    async def read(self) -> None:
        """Take messages until the caller half-closes.

        Raises:
            InvalidInput: Bytes came that are no message, or a message without commands: there is no request id to
                answer to, so the stream ends.
        """
        context, outbox, take = self._context, self._outbox, self._commands.take
        while True:
            if outbox.full:
                await outbox.room()
            message: Any = await context.read()
            if message is grpc.aio.EOF:
                return
            if isinstance(message, Malformed):
                raise message.error()
            commands = message.commands
            if not commands:
                raise InvalidInput("commands", "at least one", "none")
            for command in commands:
                if outbox.full:
                    await outbox.room()
                take(command)

    async def write(self) -> None:
        """Send what is ready, all together, until all commands have been answered and no more can come."""
        context, outbox, time = self._context, self._outbox, self._loop.time
        while True:
            while outbox.unsent:
                payloads, num_bytes = outbox.batch()
                self._writing_since_s = time()
                if self._watch is None:
                    self._watch = self._loop.call_later(self._patience_s, self._look)
                await context.write(payloads[0] if len(payloads) == 1 else b"".join(payloads))
                self._writing_since_s = None
                outbox.sent(len(payloads), num_bytes)
            if self._read_all and not outbox.in_flight:
                return
            await outbox.news()

    async def watch_for_drain(self) -> None:
        """End a stream that has nothing open once the service is shutting down.

        Raises:
            ShuttingDown: Always, when it is time.
        """
        await self._draining.wait()
        while self._outbox.in_flight or self._caller.sessions:  # which other streams of the caller may close
            await asyncio.sleep(DRAIN_POLL_S)
        raise ShuttingDown("the service is shutting down and this stream has no open session")

    async def first_of(self, parts: Iterable[asyncio.Task[None]]) -> None:
        """Wait until one of some parts has ended, well or not.

        Raises:
            Overloaded: The caller had to be cut off.
            ServiceError: What ended the part.
        """
        done, _ = await asyncio.wait([*parts, self.cut_off], return_when=asyncio.FIRST_COMPLETED)
        if self.cut_off in done:
            expected = f"expected to be read within {self._patience_s:g} s"
            raise Overloaded(f"the answers of the stream: {expected}, got no progress", RETRY_AFTER_S)
        for part in done:
            part.result()

    def finish_writing(self) -> None:
        """Let the writer end with the last answer."""
        self._read_all = True
        self._outbox.wake_writer()

    def abandon(self) -> None:
        """Let go of everything; after an orderly end nothing is left to.

        Steps of sessions that outlive the stream go on: their answers can be asked for again.
        """
        if self._watch is not None:
            self._watch.cancel()
        self.cut_off.cancel()
        for pending in self._outbox.close():
            if not self._caller.durable:
                pending.cancel()

    def _look(self) -> None:
        """Cut the caller off if one write has taken too long, or look again when it would have.

        One timer at a time looks when it fires: arming it anew for each write would cost as much as the write.
        """
        self._watch = None
        if self._writing_since_s is None:
            return
        due_s = self._writing_since_s + self._patience_s
        if due_s > self._loop.time():
            self._watch = self._loop.call_at(due_s, self._look)
        elif not self.cut_off.done():
            self.cut_off.set_result(None)
