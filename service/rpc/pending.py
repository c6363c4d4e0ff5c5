"""A command of a Session stream that is not answered yet, and the order in which the answers of a session go out."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.engine.interface import Event, Failed, Finished, RequestId
from service.errors import (
    InternalFailure,
    InvalidInput,
    MarkNotFound,
    Overloaded,
    RequestCancelled,
    ServiceError,
    SessionExists,
    SessionNotFound,
    StepMismatch,
)
from service.rpc.callers import End, LiveSession, end_error
from service.rpc.session_answers import failure

if TYPE_CHECKING:
    from service.rpc.outbox import Outbox

log = logging.getLogger(__name__)

Encode = Callable[["Pending", object], bytes]  # the value of the Finished event to a serialised SessionResponse

# These tell of a command that was refused and changed nothing, whatever else has happened to its session since.
_HARMLESS = (InvalidInput, MarkNotFound, Overloaded, SessionExists, StepMismatch)


class Pending:
    """One command on its way; the sink of its events.

    Answers of one session keep the order of its commands. A refusal is known at once and waits here, as bytes, behind
    what is in flight.

    Attributes:
        outbox: Of the stream that it came on.
        request_id: The caller's number for it.
        session: What it names; None: nothing that exists.
        encode: Makes the answer.
        reserved_bytes: About the size of its answer.
        extra: What `encode` needs besides.
        opens: The session that it opens, if any: that one's answers wait for this one.
        work: Its number at the engine; 0 where it never got there.
        payload: The answer, once it is known.
    """

    __slots__ = ("encode", "extra", "opens", "outbox", "payload", "request_id", "reserved_bytes", "session", "work")

    def __init__(
        self,
        outbox: "Outbox",
        request_id: int,
        session: LiveSession | None,
        encode: Encode,
        reserved_bytes: int = 0,
        extra: object = None,
        opens: LiveSession | None = None,
    ) -> None:
        self.outbox = outbox
        self.request_id = request_id
        self.session = session
        self.encode = encode
        self.reserved_bytes = reserved_bytes
        self.extra = extra
        self.opens = opens
        self.work: RequestId = 0
        self.payload: bytes | None = None

    def take(self, event: Event) -> None:
        """Take the one event that ends the command."""
        if type(event) is Finished:
            if self.outbox.closed:
                payload = b""
            else:
                try:
                    payload = self.encode(self, event.value)
                except Exception:  # a caller must not wait for ever because of our mistake
                    log.exception("an answer could not be made")
                    payload = self._failure(InternalFailure("see the log"))
        elif type(event) is Failed:
            payload = self._failure(event.error)
        else:
            payload = self._failure(RequestCancelled("the request was cancelled"))
        self.answer(payload)

    def enqueue(self) -> None:
        """Take a place in the order of the session."""
        session = self.session
        if session is not None:
            queue = session.queue
            if queue is None:
                session.queue = [self]
            else:
                queue.append(self)

    def cancel(self) -> None:
        """Stop the work on it, if there is any."""
        session = self.session
        if session is not None and self.work:
            session.model.bridge.cancel(self.work)

    def answer(self, payload: bytes) -> None:
        """Send the answer once those before it of the same session have gone."""
        session = self.session
        if session is None:
            self.outbox.answer(self, payload)
            return
        queue = session.queue
        if queue is not None and len(queue) == 1 and queue[0] is self and self.opens is None:
            session.queue = None
            self.outbox.answer(self, payload)
        else:
            self.payload = payload
            _flush(session)

    def _failure(self, error: ServiceError) -> bytes:
        opened = self.opens
        if opened is not None:  # the engine keeps nothing of it
            opened.caller.forget(opened, None)
            opened.model.bridge.unwatch_session(opened.id)
        session = self.session
        if session is None:
            return failure(self.request_id, "", error)
        if session is opened:
            return failure(self.request_id, str(self.extra), error)
        end = session.end
        broken = end is End.BROKEN and not isinstance(error, _HARMLESS)
        if isinstance(error, SessionNotFound) and end is not None and end is not End.BROKEN:
            # Sent before the caller could know.
            error = end_error(session.name, end, session.idle_timeout_s, "session_id")
        return failure(self.request_id, session.name, error, session_ended=broken)


class Closing(Pending):
    """A close on its way: until it is answered, the session may still end by itself."""

    __slots__ = ()

    def take(self, event: Event) -> None:
        """Take the one event that ends the command."""
        super().take(event)
        if self.session is not None:
            self.session.model.bridge.unwatch_session(self.session.id)


def _flush(session: LiveSession) -> None:
    """Hand out the answers that are known and whose turn it is; forks let those of the new sessions follow."""
    sessions = [session]  # a list, not a recursion: forks of forks may be thousands
    while sessions:
        session = sessions.pop()
        while (queue := session.queue) and queue[0].payload is not None and queue[0].session is session:
            first = queue.pop(0)
            if not queue:
                session.queue = None
            opened = first.opens
            assert first.payload is not None
            first.outbox.answer(first, first.payload)
            if opened is not None and opened is not session and opened.queue:
                opened.queue.pop(0)
                if not opened.queue:
                    opened.queue = None
                sessions.append(opened)
