"""A bidirectional call: commands in, answers out, many in flight.

Two halves run side by side for each stream, by callbacks: a task that waits for each message would cost as much as the
message. `inflow` takes messages and submits their commands; the engines' events turn into answers as they come;
`outflow` sends all that are ready as one message. A command counts as in flight until its answer has been handed to
gRPC, and with too much in flight the stream is read no further: a caller that does not read its answers is stopped by
flow control, costs a bounded amount of memory, and is cut off in the end.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from service.calls import DRAIN_POLL_S
from service.errors import InvalidInput, ShuttingDown
from service.rpc.boundary import Context
from service.rpc.inflow import Inflow
from service.rpc.outbox import Outbox, Owed
from service.rpc.outflow import Outflow
from service.rpc.wire import wire_of


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
        self._draining = draining
        self._context = context
        self._quiet_s = quiet_s
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._wire = wire_of(context)
        self._inflow = Inflow(self._wire, outbox, self._commands_of, commands.take, self._all_read, self._end)
        self._outflow = Outflow(self._wire, outbox, self._next_message, patience_s, self._end)
        self._drain: asyncio.Task[None]  # while it is served

    async def serve(self) -> None:
        """Serve until the caller has half-closed the stream and has its answers.

        Raises:
            ServiceError: What ended the stream early.
        """
        # Before anything else: gRPC cannot end a stream whose first message, which they would go out with, is stuck.
        await self._context.send_initial_metadata(())
        self._drain = asyncio.create_task(self._watch_for_drain())
        try:
            self._outflow.go_on()
            self._inflow.go_on()
            await self._over
        finally:
            self._drain.cancel()
            self._outflow.close()
            self._commands.abandon(self._outbox.close())  # after an orderly end nothing is left
            self._wire.stop()
            self._over.cancel()
            await asyncio.gather(self._drain, return_exceptions=True)

    def _commands_of(self, message: Any) -> Sequence[Any]:
        """The commands of a message.

        Raises:
            InvalidInput: It has none: there is no request id to answer to, so the stream ends.
        """
        commands: Sequence[Any] = message.commands
        if not commands:
            raise InvalidInput("commands", "at least one", "none")
        return commands

    def _next_message(self) -> tuple[bytes, int, int]:
        """What to send next, of how many payloads of the outbox it is made, and the bytes of those.

        Serialised answers put together are the message of all their events.
        """
        payloads, num_bytes = self._outbox.batch()
        return (payloads[0] if len(payloads) == 1 else b"".join(payloads)), len(payloads), num_bytes

    def _all_read(self) -> None:
        """Take note that the caller has sent all: what is in flight is still answered."""
        self._drain.cancel()
        self._outflow.when_all_answered(self._all_answered)

    def _all_answered(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _end(self, error: Exception) -> None:
        """End early."""
        if not self._over.done():
            self._over.set_exception(error)

    async def _watch_for_drain(self) -> None:
        """End a stream that is of no more use once the service is shutting down."""
        try:
            await self._drained()
        except Exception as error:
            self._end(error)
        else:
            self._end(ShuttingDown("the service is shutting down and this stream has nothing open, or nothing to do"))

    async def _drained(self) -> None:
        """Wait until the service is shutting down and the stream is of no more use."""
        await self._draining.wait()
        num_read, quiet_since_s = self._inflow.num_read, self._loop.time()
        while self._outbox.in_flight or self._commands.has_open:
            if self._outbox.in_flight or self._inflow.num_read != num_read:
                num_read, quiet_since_s = self._inflow.num_read, self._loop.time()
            elif self._loop.time() >= quiet_since_s + self._quiet_s:  # whoever has it open is not in its middle
                break
            await asyncio.sleep(DRAIN_POLL_S)
