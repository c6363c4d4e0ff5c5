"""The reading half of a stream: messages come, their commands are submitted."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio

from service.rpc.boundary import Malformed
from service.rpc.outbox import Outbox
from service.rpc.wire import Wire

TURN_COMMANDS = 64  # taken from one message before others get a turn of the loop

CommandsOf = Callable[[Any], Sequence[Any]]


class Inflow:
    """Takes messages until the caller half-closes; with too much in flight it waits. Everything runs on the event loop.

    Args:
        wire: Where messages come from.
        outbox: What is in flight.
        commands_of: The commands of a message.
        take: Submits one command, or answers it with an error.
        at_end: Called when the caller has sent all.
        fail: Called with the error that ends the stream: bytes that are no message, or a message without commands.

    Attributes:
        num_read: Messages so far.
    """

    def __init__(
        self,
        wire: Wire,
        outbox: Outbox,
        commands_of: CommandsOf,
        take: Callable[[Any], None],
        at_end: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self.num_read = 0
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._outbox = outbox
        self._commands_of = commands_of
        self._take = take
        self._at_end = at_end
        self._fail = fail
        self._commands: Sequence[Any] = ()  # of the last message
        self._num_taken = 0  # of those

    def go_on(self) -> None:
        """Take what is left of the last message, then the next one."""
        outbox, commands, turn = self._outbox, self._commands, TURN_COMMANDS
        if outbox.closed:
            return
        try:
            while self._num_taken < len(commands):
                if outbox.full:
                    outbox.when_room(self.go_on)
                    return
                if not turn:
                    self._loop.call_soon(self.go_on)
                    return
                turn -= 1
                self._num_taken += 1
                self._take(commands[self._num_taken - 1])
            self._commands, self._num_taken = (), 0  # the next message may be long in coming
            if outbox.full:
                outbox.when_room(self.go_on)
            else:
                self._wire.receive(self._arrived)
        except Exception as error:  # the stream ends with it, whatever it is
            self._fail(error)

    def _arrived(self, message: Any) -> None:
        if self._outbox.closed:
            return
        if message is grpc.aio.EOF:
            self._at_end()
            return
        if isinstance(message, Malformed | Exception):
            self._fail(message.error() if isinstance(message, Malformed) else message)
            return
        self.num_read += 1
        try:
            self._commands, self._num_taken = self._commands_of(message), 0
        except Exception as error:
            self._fail(error)
        else:
            self.go_on()
