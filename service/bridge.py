"""The asyncio side of the engine's door: requests go in, events come back to whoever asked.

The engine's threads call `publish` with all events of a turn; however many turns have gone by, they cross into the
event loop with one `call_soon_threadsafe`. Everything else here runs on the loop.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from service.engine.interface import (
    AnyRequest,
    Cancelled,
    CloseSession,
    EngineDoor,
    Event,
    Failed,
    Finished,
    ForkSession,
    Publish,
    RequestId,
    SessionEnded,
    SessionId,
    TokensDecided,
)
from service.errors import InternalFailure, RequestCancelled, ShuttingDown
from service.sinks import DISCARD, Enqueue, Settle

log = logging.getLogger(__name__)

_next_id = itertools.count(1)


def next_id() -> int:
    """A number that no other request or session of this process has."""
    return next(_next_id)


class Sink(Protocol):
    """Who waits for the events of a request."""

    def take(self, event: Event) -> None:
        """Take the next event, on the loop; the terminal one comes last."""


class SessionSink(Protocol):
    """Who wants to know when a session ends by itself."""

    def ended(self, event: SessionEnded) -> None:
        """Take the end, on the loop."""


class Diversion(Protocol):
    """Takes what is asked of a session that is on its way to another engine, or has got there."""

    def submit(self, request: AnyRequest, sink: Sink) -> None:
        """As `Bridge.submit`."""

    def cancel(self, request: RequestId) -> None:
        """As `Bridge.cancel`."""

    def has_begun(self, request: RequestId) -> bool:
        """As `Bridge.has_begun`."""


class Bridge:
    """One engine as seen from the event loop.

    Args:
        connect: Makes the engine, given where to publish its events.
        loop: The loop that everything else of this object is used on.

    Attributes:
        retired: Whether the sessions were ended because the model is served no more.
        diversions: By session, where its requests go instead; see `service.lifecycle.handover`.
    """

    def __init__(self, connect: Callable[[Publish], EngineDoor], loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sinks: dict[RequestId, Sink] = {}
        self._sessions: dict[SessionId, SessionSink] = {}
        self._arrived: deque[Sequence[Event]] = deque()  # published and not delivered
        self._delivering = False  # whether a delivery is on its way
        self.retired = False
        self.diversions: dict[SessionId, Diversion] = {}
        self.engine = connect(self._publish)

    @property
    def unanswered(self) -> int:
        """Requests without a terminal event so far."""
        return len(self._sinks)

    def submit(self, request: AnyRequest, sink: Sink) -> None:
        """Submit a request; `sink` gets its events on the loop, the terminal one last.

        Raises:
            Overloaded, ShuttingDown: It was not admitted; `sink` is never called.
        """
        if self.diversions and (diversion := self._diversion(request)) is not None:
            diversion.submit(request, sink)
            return
        sinks, request_id = self._sinks, request.id
        sinks[request_id] = sink
        try:
            self.engine.submit(request)
        except BaseException:
            del sinks[request_id]
            raise

    def cancel(self, request: RequestId) -> None:
        """Stop a request; its sink hears nothing more. Unknown and ended ids are ignored."""
        if request in self._sinks:
            self._sinks[request] = DISCARD
            self.engine.cancel(request)
        elif self.diversions:
            for diversion in set(self.diversions.values()):
                diversion.cancel(request)

    def has_begun(self, request: RequestId) -> bool:
        """Whether a request is in a batch that runs, has begun in another way, is over or was never asked."""
        if request in self._sinks:
            return self.engine.has_begun(request)
        return all(diversion.has_begun(request) for diversion in set(self.diversions.values()))

    def ask(self, request: AnyRequest) -> "asyncio.Future[object]":
        """Submit a request that has one answer.

        Returns:
            The value of its Finished event to be, or the ServiceError that it fails with.

        Raises:
            Overloaded, ShuttingDown: It was not admitted.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        self.submit(request, Settle(future))
        return future

    async def answers(self, requests: Sequence[AnyRequest]) -> list[object]:
        """Submit requests that have one answer each, and wait for all.

        Returns:
            The values of their Finished events, in order.

        Raises:
            ServiceError: The first failure; the others are cancelled, as all are when the caller goes away.
        """
        futures: list[asyncio.Future[object]] = []
        try:
            for request in requests:
                futures.append(self.ask(request))
            if len(futures) == 1:  # the usual case, for half of the price
                return [await futures[0]]
            return await asyncio.gather(*futures)
        except BaseException:
            for request in requests:
                self.cancel(request.id)
            raise

    async def events(self, request: AnyRequest) -> AsyncGenerator[Event, None]:
        """Submit a request and give its events up to Finished. Closing the generator early cancels the request.

        The queue is bounded by the request itself: no more events than tokens that it may produce.

        Raises:
            ServiceError: It was refused, or it failed.
        """
        arrived = Enqueue()
        self.submit(request, arrived)
        try:
            while True:
                event = await arrived.queue.get()
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Cancelled):
                    raise RequestCancelled("the request was cancelled")
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel(request.id)

    @property
    def watched(self) -> list[SessionId]:
        """The sessions whose end somebody is to be told of."""
        return list(self._sessions)

    def session_sink(self, session: SessionId) -> SessionSink | None:
        """Who is to be told of a session's end."""
        return self._sessions.get(session)

    def watch_session(self, session: SessionId, sink: SessionSink) -> None:
        """Have `sink` told if a session ends by itself."""
        self._sessions[session] = sink

    def unwatch_session(self, session: SessionId) -> None:
        """Forget who is to be told of a session's end."""
        self._sessions.pop(session, None)

    def close_session(self, session: SessionId) -> None:
        """Close a session that nobody waits for any more. An engine takes closes however full it is."""
        self.unwatch_session(session)
        try:
            self.submit(CloseSession(next_id(), session), DISCARD)
        except (ShuttingDown, InternalFailure):
            log.debug("session %d ends with its engine", session)

    def end_sessions(self) -> int:
        """End every session behind what it has asked for so far; who watches them is told at once.

        Returns:
            How many there were.
        """
        self.retired = True
        watched = list(self._sessions.items())
        for session, sink in watched:
            _guarded(sink.ended, SessionEnded(session, False, 0))
            self.close_session(session)
        return len(watched)

    def _diversion(self, request: AnyRequest) -> Diversion | None:
        """Where a request goes instead of to the engine, if anywhere."""
        session = request.source if isinstance(request, ForkSession) else getattr(request, "session", None)
        return None if session is None else self.diversions.get(session)

    def _publish(self, events: Sequence[Event]) -> None:
        """Take the events of one turn of the engine; called on the engine's threads."""
        self._arrived.append(events)
        if self._delivering:  # cleared before the delivery looks: what is seen set will find these events
            return
        self._delivering = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody is left to hear them
            log.debug("%d events came after the end", len(events))

    def _deliver(self) -> None:
        self._delivering = False
        arrived, sinks = self._arrived, self._sinks
        while arrived:
            for event in arrived.popleft():
                kind = type(event)
                if kind is SessionEnded:
                    ended = self._sessions.pop(event[0], None)
                    if ended is not None:
                        _guarded(ended.ended, event)
                    continue
                sink = sinks.get(event[0]) if kind is TokensDecided else sinks.pop(event[0], None)
                if sink is None:
                    log.error("the engine published %s for the unknown request %d", kind.__name__, event[0])
                    continue
                try:
                    sink.take(event)
                except Exception:  # one caller's trouble is not the next one's
                    log.exception("an event could not be delivered")


def _guarded(take: Callable[[SessionEnded], None], event: Event) -> None:
    assert isinstance(event, SessionEnded)
    try:
        take(event)
    except Exception:
        log.exception("the end of a session could not be delivered")
