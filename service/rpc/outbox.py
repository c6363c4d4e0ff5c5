"""What one stream owes its caller: commands in flight, and answers that gRPC has not taken yet.

Answers wait here as bytes, ready to go, so that what a caller who does not read costs is known exactly. In number and
in bytes there is a bound, above which the stream is read no further.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

MAX_MESSAGE_EVENTS = 1000  # of one message to the caller
MAX_MESSAGE_BYTES = 2**18  # what gRPC holds at most for a caller who was cut off and may yet come back
MAX_OWED_BYTES = 16 * 2**20  # answers waiting and answers to come, of one stream


class Owed(Protocol):
    """A command that is not answered yet.

    Attributes:
        request_id: The caller's number for it.
        reserved_bytes: About the size of its answer.
    """

    request_id: int
    reserved_bytes: int

    def cancel(self) -> None:
        """Stop the work on it, if there is any."""


class Outbox:
    """See the module docstring. Everything runs on the event loop.

    Args:
        max_in_flight: Commands that may be unanswered, and answers unsent, at a time.

    Attributes:
        closed: Whether the stream has ended: what comes is dropped.
        in_flight: Commands taken whose answers gRPC has not taken, and news not sent.
        pending: Commands that are not answered, by request id.
    """

    __slots__ = (
        "_loop",
        "_max_in_flight",
        "_num_bytes",
        "_payloads",
        "_reader",
        "_writer",
        "closed",
        "in_flight",
        "pending",
    )

    def __init__(self, max_in_flight: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_in_flight = max_in_flight
        self._payloads: list[bytes] = []
        self._num_bytes = 0  # of the payloads and, as reserved, of those to come
        self._reader: Callable[[], None] | None = None  # who waits for room
        self._writer: Callable[[], None] | None = None  # who waits for something to send
        self.closed = False
        self.in_flight = 0
        self.pending: dict[int, Owed] = {}

    @property
    def full(self) -> bool:
        """Whether nothing more may be taken."""
        return self.in_flight >= self._max_in_flight or self._num_bytes >= MAX_OWED_BYTES

    @property
    def unsent(self) -> int:
        """Answers and news that wait to be sent."""
        return len(self._payloads)

    def take(self, pending: Owed) -> None:
        """Take a command that was admitted; its answer will come."""
        self.in_flight += 1
        self._num_bytes += pending.reserved_bytes
        self.pending[pending.request_id] = pending

    def untake(self, pending: Owed) -> None:
        """Take back a command that was not admitted after all."""
        self.in_flight -= 1
        self._num_bytes -= pending.reserved_bytes
        del self.pending[pending.request_id]

    def answer(self, pending: Owed, payload: bytes) -> None:
        """Send the answer to a command that was taken."""
        if self.closed:
            return
        if self.pending.get(pending.request_id) is pending:  # and not one that wrongly has the same number
            del self.pending[pending.request_id]
        self._payloads.append(payload)
        self._num_bytes += len(payload) - pending.reserved_bytes
        writer = self._writer
        if writer is not None:  # in the next turn: what else is ready by then goes with it
            self._writer = None
            self._loop.call_soon(writer)

    def tell(self, payload: bytes) -> None:
        """Send something that answers no command."""
        if self.closed:
            return
        self.in_flight += 1
        self._payloads.append(payload)
        self._num_bytes += len(payload)
        self.wake_writer()

    def first(self) -> bytes:
        """The payload that has waited longest; it stays until it is `sent`."""
        return self._payloads[0]

    def batch(self) -> tuple[list[bytes], int]:
        """The payloads of the next message and their size in bytes; they stay until they are `sent`."""
        payloads = self._payloads
        size = sum(map(len, payloads))
        if len(payloads) <= MAX_MESSAGE_EVENTS and size <= MAX_MESSAGE_BYTES:
            return payloads[:], size
        count = size = 0
        for payload in payloads[:MAX_MESSAGE_EVENTS]:
            if count and size + len(payload) > MAX_MESSAGE_BYTES:
                break
            count += 1
            size += len(payload)
        return payloads[:count], size

    def sent(self, count: int, num_bytes: int) -> None:
        """Drop what gRPC has taken."""
        del self._payloads[:count]
        self._num_bytes -= num_bytes
        self.in_flight -= count
        reader = self._reader
        if reader is not None and not self.full:
            self._reader = None
            self._loop.call_soon(reader)

    def when_room(self, reader: Callable[[], None]) -> None:
        """Have something called once when more may be taken than now."""
        self._reader = reader

    def when_news(self, writer: Callable[[], None]) -> None:
        """Have something called once when there is something to send, or it is woken."""
        self._writer = writer

    def wake_writer(self) -> None:
        """Have the writer look."""
        writer = self._writer
        if writer is not None:
            self._writer = None
            self._loop.call_soon(writer)

    def close(self) -> list[Owed]:
        """Drop everything: the stream has ended. Gives what was not answered."""
        self.closed = True
        unanswered = list(self.pending.values())
        self.pending = {}
        self._payloads = []
        self._reader = self._writer = None
        return unanswered
