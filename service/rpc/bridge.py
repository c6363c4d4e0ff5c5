"""The asyncio side of the engine's door: requests go in, events come back to whoever asked.

The engine's thread calls `publish` once a turn with all events of the turn, and they cross into the event loop with
one `call_soon_threadsafe`. Everything else here runs on the loop.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from service.engine.interface import (
    Cancelled,
    CloseSession,
    EngineDoor,
    Event,
    Failed,
    Finished,
    Publish,
    Request,
    RequestId,
    SessionId,
)
from service.errors import InternalFailure, RequestCancelled, ShuttingDown

log = logging.getLogger(__name__)

Sink = Callable[[Event], None]
_next_id = itertools.count(1)


def next_id() -> int:
    """A number that no other request or session of this process has."""
    return next(_next_id)


class Bridge:
    """One engine as seen from the event loop.

    Args:
        connect: Makes the engine, given where to publish its events.
        loop: The loop that everything else of this object is used on.
    """

    def __init__(self, connect: Callable[[Publish], EngineDoor], loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sinks: dict[RequestId, Sink] = {}
        self.engine = connect(self._publish)

    @property
    def unanswered(self) -> int:
        """Requests without a terminal event so far."""
        return len(self._sinks)

    def submit(self, request: Request, sink: Sink) -> None:
        """Submit a request; `sink` gets its events on the loop, the terminal one last.

        Raises:
            Overloaded, ShuttingDown: It was not admitted; `sink` is never called.
        """
        self._sinks[request.id] = sink
        try:
            self.engine.submit(request)
        except BaseException:
            del self._sinks[request.id]
            raise

    def cancel(self, request: RequestId) -> None:
        """Stop a request; its sink hears nothing more. Unknown and ended ids are ignored."""
        if request in self._sinks:
            self._sinks[request] = _discard
            self.engine.cancel(request)

    async def answers(self, requests: Sequence[Request]) -> list[object]:
        """Submit requests that have one answer each, and wait for all.

        Returns:
            The values of their Finished events, in order.

        Raises:
            ServiceError: The first failure; the others are cancelled, as all are when the caller goes away.
        """
        futures: list[asyncio.Future[object]] = []
        try:
            for request in requests:
                future: asyncio.Future[object] = self._loop.create_future()
                self.submit(request, lambda event, future=future: _settle(future, event))  # type: ignore[misc]
                futures.append(future)
            return await asyncio.gather(*futures)
        except BaseException:
            for request in requests:
                self.cancel(request.id)
            raise

    async def events(self, request: Request) -> AsyncGenerator[Event, None]:
        """Submit a request and give its events up to Finished. Closing the generator early cancels the request.

        The queue is bounded by the request itself: no more events than tokens that it may produce.

        Raises:
            ServiceError: It was refused, or it failed.
        """
        arrived: asyncio.Queue[Event] = asyncio.Queue()
        self.submit(request, arrived.put_nowait)
        try:
            while True:
                event = await arrived.get()
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Cancelled):
                    raise RequestCancelled("the request was cancelled")
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel(request.id)

    def close_session(self, session: SessionId) -> None:
        """Close a session that nobody waits for any more. An engine takes closes however full it is."""
        try:
            self.submit(CloseSession(next_id(), session), _discard)
        except (ShuttingDown, InternalFailure):
            log.debug("session %d ends with its engine", session)

    def _publish(self, events: Sequence[Event]) -> None:
        """Take the events of one turn of the engine; called on the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, events)
        except RuntimeError:  # the loop is closed: nobody is left to hear them
            log.debug("%d events came after the end", len(events))

    def _deliver(self, events: Sequence[Event]) -> None:
        sinks = self._sinks
        for event in events:
            terminal = isinstance(event, Finished | Failed | Cancelled)
            sink = sinks.pop(event.request, None) if terminal else sinks.get(event.request)
            if sink is None:
                log.error("the engine published %s for the unknown request %d", type(event).__name__, event.request)
                continue
            try:
                sink(event)
            except Exception:  # one caller's trouble is not the next one's
                log.exception("an event could not be delivered")


def _settle(future: "asyncio.Future[object]", event: Event) -> None:
    if future.done():  # the caller went away
        return
    if isinstance(event, Finished):
        future.set_result(event.value)
    elif isinstance(event, Failed):
        future.set_exception(event.error)
    elif isinstance(event, Cancelled):
        future.set_exception(RequestCancelled("the request was cancelled"))


def _discard(event: Event) -> None:
    """Take the events of a request that nobody waits for."""
