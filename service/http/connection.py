"""One HTTP connection: uvicorn's protocol with the bounds that it leaves to a proxy in front of it.

A connection that sends no whole request head, or takes no answer, is cut off; of too many connections the one that has
been idle longest gives way.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.http.chunks import Parser
from service.http.status import JSON, error_body


@dataclass
class Connections:
    """All connections of a server, and their bounds.

    Args:
        max_connections: At a time.
        head_timeout_s: Seconds for the head of a request, from its first byte.
        slow_reader_timeout_s: Seconds for a caller to take what waits for it.

    Attributes:
        state: As uvicorn keeps it.
        idle: Those that no request is being answered on, the one that has been so longest first.
    """

    max_connections: int
    head_timeout_s: float
    slow_reader_timeout_s: float
    state: ServerState = field(default_factory=ServerState)
    idle: "dict[Connection, None]" = field(default_factory=dict)
    none_left: asyncio.Event = field(default_factory=asyncio.Event)  # set when the last one ends

    async def close(self, grace_s: float) -> None:
        """End every connection.

        Args:
            grace_s: Seconds for those that are still being written to.
        """
        connections = self.state.connections
        for connection in tuple(connections):
            connection.shutdown()
        if connections:
            self.none_left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.none_left.wait(), grace_s)
        for connection in tuple(connections):
            connection.transport.abort()


class Connection(H11Protocol):
    """See the module docstring.

    Args:
        config: Of uvicorn, loaded.
        all_connections: Of the server.
    """

    conn: Parser

    def __init__(self, config: Config, all_connections: Connections) -> None:
        super().__init__(config, all_connections.state, {})
        self.conn = Parser()
        self._all = all_connections
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take a connection, or let an idle one go for it, or refuse it."""
        super().connection_made(transport)
        if len(self.connections) > self._all.max_connections:
            (next(iter(self._all.idle), self)).transport.abort()
        self._all.idle[self] = None
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        if self._busy:
            self._stop(self._head)
            self._head = None
            self._all.idle.pop(self, None)
        elif self._head is None:
            self._expect_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        if not self.transport.is_closing():
            self._all.idle[self] = None
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()
        elif not self._busy and self.conn.trailing_data[0]:  # a part of the next head came early
            self._expect_head()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that has been idle for too long."""
        super().timeout_keep_alive_handler()
        self._expect_reading()

    def pause_writing(self) -> None:
        """Give the caller its time to read."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        self._stop(self._unread)
        self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._all.idle.pop(self, None)
        if not self.connections:
            self._all.none_left.set()
        self._stop(self._head)
        self._stop(self._unread)
        self._head = self._unread = None

    def send_400_response(self, msg: str) -> None:
        """Say that this is not HTTP, or not such as is taken, where nothing else is being said; end the connection."""
        if self._busy:  # the rest of a request is broken: whoever reads it learns that its caller is gone
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = error_body(self.conn.refusal or msg)
            headers = [("content-type", JSON), ("content-length", str(len(body))), ("connection", "close")]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._expect_reading()

    @property
    def _busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self._all.head_timeout_s, self.transport.abort)

    def _expect_reading(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(self._all.slow_reader_timeout_s, self.transport.abort)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
