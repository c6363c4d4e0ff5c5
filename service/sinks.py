"""What the bridge itself does with the events of a request; see `service.bridge.Sink`."""

import asyncio

from service.engine.interface import Cancelled, Event, Failed, Finished
from service.errors import RequestCancelled


class Settle:
    """Puts the one answer of a request into a future."""

    __slots__ = ("_future",)

    def __init__(self, future: "asyncio.Future[object]") -> None:
        self._future = future

    def take(self, event: Event) -> None:
        """See `service.bridge.Sink`."""
        future = self._future
        if future.done():  # the caller went away
            return
        if isinstance(event, Finished):
            future.set_result(event.value)
        elif isinstance(event, Failed):
            future.set_exception(event.error)
        elif isinstance(event, Cancelled):
            future.set_exception(RequestCancelled("the request was cancelled"))


class Enqueue:
    """Keeps the events of a request until they are asked for."""

    __slots__ = ("queue",)

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event] = asyncio.Queue()

    def take(self, event: Event) -> None:
        """See `service.bridge.Sink`."""
        self.queue.put_nowait(event)


class _Discard:
    """Takes the events of a request that nobody waits for."""

    __slots__ = ()

    def take(self, event: Event) -> None:
        """See `service.bridge.Sink`."""
        return


DISCARD = _Discard()
