"""The writing half of a stream: all answers that are ready go out together."""

import asyncio
from collections.abc import Callable

import grpc.aio

from service.calls import RETRY_AFTER_S
from service.errors import Overloaded
from service.rpc.outbox import Outbox
from service.rpc.wire import Wire

NextMessage = Callable[[], tuple[bytes, int, int]]


class Outflow:
    """Sends what is in the outbox, one message after the other. Everything runs on the event loop.

    Args:
        wire: Where messages go.
        outbox: What there is to send.
        next_message: The next message, how many payloads of the outbox it is, and the bytes of those.
        patience_s: Seconds that the caller may take to read a message.
        fail: Called with the error that ends the stream: the caller reads too slowly or has gone.
    """

    def __init__(
        self,
        wire: Wire,
        outbox: Outbox,
        next_message: NextMessage,
        patience_s: float,
        fail: Callable[[Exception], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._outbox = outbox
        self._next_message = next_message
        self._patience_s = patience_s
        self._fail = fail
        self._on_idle: Callable[[], None] | None = None
        self._sent = (0, 0)  # what is on its way: payloads, and bytes of them
        self._writing_since_s: float | None = None  # on the loop's clock
        self._watch: asyncio.TimerHandle | None = None

    def go_on(self) -> None:
        """Send what there is, and then whatever comes."""
        outbox = self._outbox
        if outbox.closed:
            return
        if not outbox.unsent:
            if self._on_idle is not None and not outbox.in_flight:
                self._on_idle()
            else:
                outbox.when_news(self.go_on)
            return
        try:
            message, num_payloads, num_bytes = self._next_message()
            self._sent = num_payloads, num_bytes
            self._writing_since_s = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_later(self._patience_s, self._look)
            self._wire.send(message, self._gone)
        except Exception as error:  # the stream ends with it, whatever it is
            self._fail(error)

    def when_all_answered(self, on_idle: Callable[[], None]) -> None:
        """Have something called once nothing is in flight any more: no more commands come."""
        self._on_idle = on_idle
        self._outbox.wake_writer()

    def close(self) -> None:
        """Stop the clock."""
        if self._watch is not None:
            self._watch.cancel()

    def _gone(self, went: bool) -> None:
        self._writing_since_s = None
        if self._outbox.closed:
            return
        if went:
            self._outbox.sent(*self._sent)
            self.go_on()
        else:
            self._fail(grpc.aio.InternalError("the call is over"))

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
        else:
            expected = f"expected to be read within {self._patience_s:g} s"
            self._fail(Overloaded(f"the answers of the stream: {expected}, got no progress", RETRY_AFTER_S))
