"""The sessions of one stream: which are open, which were, and which have been idle for too long."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from service.engine.interface import SessionId
from service.errors import InvalidInput, ServiceError, SessionClosed, SessionExpired, SessionNotFound
from service.rpc.models import LiveModel

MAX_REMEMBERED = 1024  # sessions of which a stream still knows how they ended


@dataclass
class LiveSession:
    """One session.

    Args:
        id: As the engine knows it.
        model: Whose state.
        opened: Whether the engine has given it a slot.
        requests_in_flight: Unanswered ones; with any, it is not idle.
        last_used_s: When its last request ended, on the loop's clock.
        num_steps: Steps taken, as of the last answer.
    """

    id: SessionId
    model: LiveModel
    opened: bool = False
    requests_in_flight: int = 0
    last_used_s: float = 0.0
    num_steps: int = 0

    @property
    def name(self) -> str:
        """As the caller knows it."""
        return str(self.id)


class SessionTable:
    """See the module docstring.

    Args:
        idle_timeout_s: Seconds without a request after which a session is closed.
    """

    def __init__(self, idle_timeout_s: float) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._loop = asyncio.get_running_loop()
        self._live: dict[str, LiveSession] = {}
        self._ended: OrderedDict[str, type[ServiceError]] = OrderedDict()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._live)

    def add(self, live: LiveSession) -> None:
        """Take a session that is being opened."""
        self._live[live.name] = live
        self.touch(live)
        # One timer a session, which looks when it fires: re-arming it at every step would cost more than the step.
        self._timers[live.name] = self._loop.call_later(self._idle_timeout_s, self._look, live)

    def touch(self, live: LiveSession) -> None:
        """Note that a session is in use."""
        live.last_used_s = self._loop.time()

    def find(self, name: str, field: str) -> LiveSession:
        """Find an open session.

        Raises:
            InvalidInput: No name.
            SessionExpired, SessionClosed: It was open on this stream before.
            SessionNotFound: It was not, or ended long ago.
        """
        live = self._live.get(name)
        if live is not None and live.opened:
            return live
        if not name:
            raise InvalidInput(field, "a session_id that this stream opened", "nothing")
        ended = self._ended.get(name)
        if ended is SessionExpired:
            idle = f"{self._idle_timeout_s:g} s without a request"
            raise SessionExpired(f"{field}: expected an open session, got {name}, closed after {idle}")
        if ended is SessionClosed:
            raise SessionClosed(f"{field}: expected an open session, got {name}, closed before")
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        raise SessionNotFound(f"{field}: expected a session that this stream opened, got {shown!r}")

    def closed(self, live: LiveSession) -> None:
        """Note that a session was closed by its caller."""
        self.forget(live)
        self._remember(live, SessionClosed)

    def forget(self, live: LiveSession) -> None:
        """Drop a session that the engine does not know, or no longer."""
        del self._live[live.name]
        self._timers.pop(live.name).cancel()

    def close_all(self) -> None:
        """Close every session: the stream has ended."""
        for live in list(self._live.values()):
            self.forget(live)
            live.model.bridge.close_session(live.id)

    def _look(self, live: LiveSession) -> None:
        """Close a session that has been idle for long enough, or look again when it might have been."""
        due_s = live.last_used_s + self._idle_timeout_s
        if live.requests_in_flight:
            due_s = self._loop.time() + self._idle_timeout_s
        if due_s > self._loop.time():
            self._timers[live.name] = self._loop.call_at(due_s, self._look, live)
            return
        self.forget(live)
        self._remember(live, SessionExpired)
        live.model.bridge.close_session(live.id)

    def _remember(self, live: LiveSession, how: type[ServiceError]) -> None:
        self._ended[live.name] = how
        if len(self._ended) > MAX_REMEMBERED:
            self._ended.popitem(last=False)
