"""The sessions of one stream: which are open, how the others ended, and which have been idle for too long."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import RequestId, SessionId
from service.errors import InvalidInput, ServiceError, SessionClosed, SessionExpired, SessionNotFound
from service.rpc.bridge import Bridge
from service.rpc.models import LiveModel

MAX_REMEMBERED = 1024  # sessions of which a stream still knows how they ended


@dataclass(eq=False)
class Unanswered:
    """A request whose answer has not been sent.

    Args:
        request_id: The caller's.
        work: Who works on it, under which id; None where nobody does, or no longer.
        response: Once it is known.
    """

    request_id: int
    work: tuple[Bridge, RequestId] | None = None
    response: pb.SessionResponse | None = None


@dataclass(eq=False)
class LiveSession:
    """One session.

    Args:
        id: As the engine knows it.
        model: Whose state.
        opened: Whether the engine has given it a slot.
        unanswered: Its requests in the order in which they came, which is that of the answers; with any, it is not
            idle.
        last_used_s: When its last request ended, on the loop's clock.
        num_steps: Steps taken once all that the engine has admitted are.
    """

    id: SessionId
    model: LiveModel
    opened: bool = False
    unanswered: deque[Unanswered] = field(default_factory=deque)
    last_used_s: float = 0.0
    num_steps: int = 0

    @property
    def name(self) -> str:
        """As the caller knows it."""
        return str(self.id)


class _Ended(NamedTuple):
    live: LiveSession  # may still have answers to come
    error: type[ServiceError]
    how: str


class SessionTable:
    """See the module docstring.

    Args:
        idle_timeout_s: Seconds without a request after which a session is closed.
        on_expired: Called after each that was closed for that.
    """

    def __init__(self, idle_timeout_s: float, on_expired: Callable[[], None]) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._on_expired = on_expired
        self._loop = asyncio.get_running_loop()
        self._live: dict[str, LiveSession] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
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

    def named(self, name: str) -> LiveSession | None:
        """The session that a name once given to the caller stands for, though it may have ended."""
        live = self._live.get(name)
        if live is not None:
            return live if live.opened else None
        ended = self._ended.get(name)
        return None if ended is None else ended.live

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
        if ended is not None:
            raise ended.error(f"{field}: expected an open session, got {name}, {ended.how}")
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        raise SessionNotFound(f"{field}: expected a session that this stream opened, got {shown!r}")

    def closed(self, live: LiveSession) -> None:
        """Note that a session was closed by its caller."""
        self._end(live, SessionClosed, "closed before")

    def broke(self, live: LiveSession) -> None:
        """Note that a session's state is not known any more, and close it."""
        if live.name in self._live:
            self._end(live, SessionNotFound, "which ended when a step of it failed")
            live.model.bridge.close_session(live.id)

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
        if live.unanswered:
            due_s = self._loop.time() + self._idle_timeout_s
        if due_s > self._loop.time():
            self._timers[live.name] = self._loop.call_at(due_s, self._look, live)
            return
        self._end(live, SessionExpired, f"closed after {self._idle_timeout_s:g} s without a request")
        live.model.bridge.close_session(live.id)
        self._on_expired()

    def _end(self, live: LiveSession, error: type[ServiceError], how: str) -> None:
        self.forget(live)
        self._ended[live.name] = _Ended(live, error, how)
        # Those with answers to come are few: they count as in flight.
        while len(self._ended) > MAX_REMEMBERED and not next(iter(self._ended.values())).live.unanswered:
            self._ended.popitem(last=False)
