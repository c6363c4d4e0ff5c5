"""Whose sessions are whose: a caller sees its own sessions and nobody else's.

A caller that names itself in the call metadata keeps its sessions when a stream breaks; one that does not is a stream,
and its sessions end with it. A session costs this layer a few hundred bytes of Python: no timers (the engine tells when
one has been idle for too long), no dictionaries, a list only while requests are in flight.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple
from weakref import ReferenceType, ref

from service.bridge import next_id
from service.caller import CALLER_KEY, caller_name
from service.engine.interface import SessionEnded, SessionId
from service.errors import InvalidInput, ServiceError, SessionClosed, SessionExists, SessionExpired, SessionNotFound
from service.rpc.session_answers import expired

if TYPE_CHECKING:
    from service.models import LiveModel
    from service.rpc.outbox import Outbox
    from service.rpc.pending import Pending

MAX_NAME_CHARACTERS = 128
MAX_REMEMBERED = 4096  # sessions of which the service still knows how they ended
SHOWN_CHARACTERS = 40


class End(IntEnum):
    """How a session ended."""

    CLOSED = 1
    EXPIRED = 2
    BROKEN = 3
    RETIRED = 4


class LiveSession:
    """One session of a caller.

    Attributes:
        id: As the engine knows it.
        name: As the caller knows it.
        caller: Whose.
        model: Whose state.
        idle_timeout_s: Seconds without a command after which the engine ends it.
        outbox: Of the stream where it was last spoken of: what happens to it unasked is told there.
        queue: Its unanswered commands in the order in which they came, which is that of the answers; None for none.
        end: How it ended, or None.
    """

    __slots__ = ("__weakref__", "caller", "end", "id", "idle_timeout_s", "model", "name", "outbox", "queue")

    def __init__(self, name: str, caller: Caller, model: LiveModel, idle_timeout_s: float, outbox: Outbox) -> None:
        self.id: SessionId = next_id()
        self.name = name
        self.caller = caller
        self.model = model
        self.idle_timeout_s = idle_timeout_s
        self.outbox = outbox
        self.queue: list[Pending] | None = None
        self.end: End | None = None

    def moved(self, model: LiveModel) -> None:
        """Take note that it goes on with another version."""
        self.model = model

    def ended(self, event: SessionEnded) -> None:
        """Take note that the engine has ended the session."""
        if self.end is not None:  # a close is on its way, behind what broke
            self.end = End.BROKEN
            return
        retired = self.model.bridge.retired
        self.caller.forget(self, End.EXPIRED if event.expired else End.RETIRED if retired else End.BROKEN)
        if event.expired:
            self.outbox.tell(expired(self, event.num_steps))


class Ended(NamedTuple):
    """What is remembered of a session that ended: not its model, which may have been replaced since.

    Args:
        name: As the caller knew it.
        end: How it ended.
        idle_timeout_s: As of the session.
        live: The session, for as long as answers of it are on their way.
    """

    name: str
    end: End
    idle_timeout_s: float
    live: ReferenceType[LiveSession]


class Caller:
    """One caller and its open sessions.

    Attributes:
        key: What it calls itself; of nobody else's kind for a caller that did not say.
        durable: Whether its sessions outlive their stream.
        sessions: The open ones by name, in the order in which they were opened.
        num_streams: Streams that it has open.
    """

    __slots__ = ("_callers", "durable", "key", "num_streams", "sessions")

    def __init__(self, key: str, durable: bool, callers: Callers) -> None:
        self.key = key
        self.durable = durable
        self.sessions: dict[str, LiveSession] = {}
        self.num_streams = 0
        self._callers = callers

    def find(self, name: str, field: str) -> LiveSession:
        """Find an open session.

        Raises:
            InvalidInput: No name.
            SessionExpired, SessionClosed: It was open before.
            SessionNotFound: It was not, or ended long ago, or is somebody else's.
        """
        live = self.sessions.get(name)
        if live is not None:
            return live
        if not name:
            raise InvalidInput(field, "the session_id of an open session", "nothing")
        ended = self._callers.ended.get((self.key, name))
        if ended is not None:
            raise end_error(ended.name, ended.end, ended.idle_timeout_s, field)
        raise SessionNotFound(f"{field}: expected an open session of this caller, got {_shown(name)}")

    def named(self, name: str) -> LiveSession | None:
        """The session that a name stands for, or stood for while answers about it keep their order beyond its end."""
        live = self.sessions.get(name)
        if live is not None:
            return live
        ended = self._callers.ended.get((self.key, name))
        return None if ended is None else ended.live()

    def add(self, name: str, field: str, model: LiveModel, idle_timeout_s: float, outbox: Outbox) -> LiveSession:
        """Take a session that is being opened, under a name that is free or, where none is given, made up.

        Raises:
            InvalidInput: The name is too long.
            SessionExists: The caller has an open session of that name.
        """
        if len(name) > MAX_NAME_CHARACTERS:
            raise InvalidInput(field, f"at most {MAX_NAME_CHARACTERS} characters", f"{len(name)} characters")
        if name in self.sessions:
            raise SessionExists(f"{field}: expected a name that no open session of this caller has, got {_shown(name)}")
        live = LiveSession(name, self, model, idle_timeout_s, outbox)
        if not name:
            live.name = f"s{live.id}"
            while live.name in self.sessions:  # taken by a caller that likes such names
                live.name += "_"
        self.sessions[live.name] = live
        model.bridge.watch_session(live.id, live)
        return live

    def forget(self, live: LiveSession, end: End | None) -> None:
        """Drop a session that has ended, or that never began (None); only the former is remembered."""
        if self.sessions.get(live.name) is not live:  # closed before, and perhaps opened anew
            return
        del self.sessions[live.name]
        live.end = end
        if end is not None:
            self._callers.remember(live, end)
        self._callers.drop_if_idle(self)

    def close_all(self) -> None:
        """Close every session: the stream that they belong to has ended."""
        for live in self.sessions.values():
            live.model.bridge.close_session(live.id)
        self.sessions.clear()


class Callers:
    """All callers of the service.

    Attributes:
        ended: How sessions ended, by caller and name, the oldest first; bounded.
    """

    def __init__(self) -> None:
        self._named: dict[str, Caller] = {}
        self.ended: dict[tuple[str, str], Ended] = {}

    def enter(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Find or make the caller of a new stream.

        Raises:
            InvalidInput: It calls itself something that is not 16 to 128 printable ASCII characters.
        """
        key = caller_key(metadata)
        if key is None:
            caller = Caller(f"\n{next_id()}", False, self)  # no name that metadata could hold
        else:
            caller = self._named.get(key) or self._named.setdefault(key, Caller(key, True, self))
        caller.num_streams += 1
        return caller

    def leave(self, caller: Caller) -> None:
        """Take note that a stream of a caller has ended."""
        caller.num_streams -= 1
        if not caller.durable:
            caller.close_all()
        self.drop_if_idle(caller)

    def drop_if_idle(self, caller: Caller) -> None:
        """Drop a caller that has nothing here."""
        if caller.durable and not caller.num_streams and not caller.sessions:
            self._named.pop(caller.key, None)

    def remember(self, live: LiveSession, end: End) -> None:
        """Keep how a session ended, and forget the oldest end where there are too many."""
        key = (live.caller.key, live.name)
        self.ended.pop(key, None)
        self.ended[key] = Ended(live.name, end, live.idle_timeout_s, ref(live))
        if len(self.ended) > MAX_REMEMBERED:
            del self.ended[next(iter(self.ended))]


def caller_key(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """What a caller calls itself in the metadata of its call; None where it does not say.

    Raises:
        InvalidInput: Something that is not 16 to 128 printable ASCII characters.
    """
    return caller_name([value for key, value in metadata if key == CALLER_KEY])


def end_error(name: str, end: End, idle_timeout_s: float, field: str) -> ServiceError:
    """Say how a session ended."""
    got = f"{field}: expected an open session, got {_shown(name)}"
    if end is End.CLOSED:
        return SessionClosed(f"{got}, closed before")
    if end is End.EXPIRED:
        return SessionExpired(f"{got}, which ended after {idle_timeout_s:g} s without a command")
    if end is End.RETIRED:
        return SessionNotFound(f"{got}, which ended with its version of the model: that is served no more")
    return SessionNotFound(f"{got}, which ended when a step of it failed")


def _shown(name: str) -> str:
    return repr(name) if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]!r}..."
