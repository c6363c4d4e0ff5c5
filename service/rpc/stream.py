"""A bidirectional call: commands in, answers out, many in flight.

Two parts run side by side for each stream. The reader takes messages and submits their commands; the engines' events
turn into answers as they come; the writer sends all that are ready as one message. A command counts as in flight until
its answer has been handed to gRPC, and with too much in flight the stream is read no further: a caller that does not
read its answers is stopped by flow control, costs a bounded amount of memory, and is cut off in the end.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import grpc.aio

from service.calls import DRAIN_POLL_S, RETRY_AFTER_S
from service.errors import InvalidInput, Overloaded, ShuttingDown
from service.rpc.boundary import Context, Malformed
from service.rpc.outbox import Outbox, Owed

TURN_COMMANDS = 64  # taken from one message before others get a turn of the loop


class Commands(Protocol):
    """What the commands of a stream do."""

    @property
    def has_open(self) -> bool:
        """Whether the stream is of use even with nothing in flight and nothing new admitted."""

    def take(self, command: Any) -> None:
        """Submit one command, or answer it with an error."""

    def abandon(self, unanswered: Sequence[Owed]) -> None:
        """Let go of everything: the stream has ended."""


class Stream:
    """The state of one stream. Everything runs on the event loop.

    Args:
        commands: What to do with what comes.
        outbox: Where the answers go.
        patience_s: Seconds that the caller may take to read a message.
        draining: Set once the service admits nothing new.
        context: gRPC's stream.
        quiet_s: Seconds without a message after which, once nothing new is admitted, what is open does not count.
    """

    def __init__(
        self,
        commands: Commands,
        outbox: Outbox,
        patience_s: float,
        draining: asyncio.Event,
        context: Context,
        quiet_s: float = 0.0,
    ) -> None:
        self._commands = commands
        self._outbox = outbox
        self._patience_s = patience_s
        self._draining = draining
        self._context = context
        self._quiet_s = quiet_s
        self._loop = asyncio.get_running_loop()
        self._num_read = 0  # messages
        self._read_all = False
        self._writing_since_s: float | None = None  # on the loop's clock
        self._watch: asyncio.TimerHandle | None = None
        self._cut_off: asyncio.Future[None] = self._loop.create_future()  # the caller has not read for too long

    async def serve(self) -> None:
        """Serve until the caller has half-closed the stream and has its answers.

        Raises:
            ServiceError: What ended the stream early.
        """
        # Before anything else: gRPC cannot end a stream whose first message, which they would go out with, is stuck.
        await self._context.send_initial_metadata(())
        parts = [asyncio.create_task(part) for part in (self._read(), self._write(), self._watch_for_drain())]
        try:
            await self._first_of(parts)
            if parts[0].done():  # the caller has sent all: what is in flight is still answered
                self._read_all = True
                self._outbox.wake_writer()
                await self._first_of(parts[1:2])
        finally:
            for part in parts:
                part.cancel()
            if self._watch is not None:
                self._watch.cancel()
            self._cut_off.cancel()
            self._commands.abandon(self._outbox.close())  # after an orderly end nothing is left
            await asyncio.gather(*parts, return_exceptions=True)

    async def _read(self) -> None:
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
            self._num_read += 1
            turn = TURN_COMMANDS
            for command in self._commands_of(message):
                if outbox.full:
                    await outbox.room()
                if not turn:
                    await asyncio.sleep(0)
                    turn = TURN_COMMANDS
                turn -= 1
                take(command)

    def _commands_of(self, message: Any) -> Sequence[Any]:
        """The commands of a message.

        Raises:
            InvalidInput: It has none.
        """
        commands: Sequence[Any] = message.commands
        if not commands:
            raise InvalidInput("commands", "at least one", "none")
        return commands

    async def _send(self, payloads: Sequence[bytes]) -> None:
        """Send answers as one message: serialised ones put together are the message of all their events."""
        await self._context.write(payloads[0] if len(payloads) == 1 else b"".join(payloads))

    async def _write(self) -> None:
        """Send what is ready, all together, until all commands have been answered and no more can come."""
        outbox, time = self._outbox, self._loop.time
        while True:
            while outbox.unsent:
                payloads, num_bytes = outbox.batch()
                self._writing_since_s = time()
                if self._watch is None:
                    self._watch = self._loop.call_later(self._patience_s, self._look)
                await self._send(payloads)
                self._writing_since_s = None
                outbox.sent(len(payloads), num_bytes)
            if self._read_all and not outbox.in_flight:
                return
            await outbox.news()

    async def _watch_for_drain(self) -> None:
        """End a stream that is of no more use once the service is shutting down.

        Raises:
            ShuttingDown: Always, when it is time.
        """
        await self._draining.wait()
        num_read, quiet_since_s = self._num_read, self._loop.time()
        while self._outbox.in_flight or self._commands.has_open:
            if self._outbox.in_flight or self._num_read != num_read:
                num_read, quiet_since_s = self._num_read, self._loop.time()
            elif self._loop.time() >= quiet_since_s + self._quiet_s:  # whoever has it open is not in its middle
                break
            await asyncio.sleep(DRAIN_POLL_S)
        raise ShuttingDown("the service is shutting down and this stream has nothing open, or nothing to do")

    async def _first_of(self, parts: Iterable[asyncio.Task[None]]) -> None:
        """Wait until one of some parts has ended, well or not.

        Raises:
            Overloaded: The caller had to be cut off.
            ServiceError: What ended the part.
        """
        done, _ = await asyncio.wait([*parts, self._cut_off], return_when=asyncio.FIRST_COMPLETED)
        if self._cut_off in done:
            expected = f"expected to be read within {self._patience_s:g} s"
            raise Overloaded(f"the answers of the stream: {expected}, got no progress", RETRY_AFTER_S)
        for part in done:
            part.result()

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
        elif not self._cut_off.done():
            self._cut_off.set_result(None)
