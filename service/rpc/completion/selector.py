"""What an event loop waits with: gRPC's completion queue, and file descriptors beside it.

The loop's thread waits for the queue, so that what gRPC has to say is heard on it without another thread in between. A
second thread watches the descriptors, which are few and seldom ready (HTTP, signals), and wakes the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from service.rpc.completion import core
from service.rpc.completion.waker import Waker

log = logging.getLogger(__name__)

_LONGEST_WAIT_S: Final = 1.0  # the queue goes by the wall clock: where that was set, the wait ends so much late at most
_TURN_S: Final = 0.001  # of taking events, after which the loop gets a turn
_CLOSE_S: Final = 5.0

Selected = list[tuple[selectors.SelectorKey, int]]
# What an operation is started with: called with the event of its end, on the loop's thread.
Tag = Callable[[Any], None]


class CompletionSelector(selectors.BaseSelector):
    """See the module docstring.

    Attributes:
        queue: gRPC's completion queue. The tag of everything that ends in it is a `Tag`.
        servers: gRPC's, that have started on it and not ended.

    Raises:
        OSError: There is no way to wake a thread that waits for it.
    """

    def __init__(self) -> None:
        self.queue = core.CompletionQueue()
        self.servers: list[Any] = []
        try:
            self._waker = Waker(self.queue, self._woken)
        except OSError:
            self._end_queue()
            raise
        self._waking = False  # whether a waking is on its way
        self._woken_up = False  # whether one has come in this turn
        self._descriptors = selectors.EpollSelector()
        self._ready = False  # whether a descriptor is; set by the watcher, which then waits until it may look again
        self._looked_at = False
        self._look_again = threading.Semaphore(0)
        self._waiting = False  # whether the loop's thread waits for the queue
        self._closing = False
        self._end_of_watch = os.eventfd(0)
        self._watcher = threading.Thread(target=self._watch, name="descriptors", daemon=True)
        self._watcher.start()

    # ---------------------------------------------------------------------------------------------------- any thread

    def wake(self) -> None:
        """Have `select` return."""
        if not self._waking:
            self._waking = True
            self._waker.wake()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._descriptors.fileno(), select.POLLIN)  # an epoll is ready when one of its own is
        poll.register(self._end_of_watch, select.POLLIN)
        try:
            while True:
                ready = poll.poll(_LONGEST_WAIT_S * 1000)
                if self._closing:
                    return
                if ready:
                    self._ready = True
                    self.wake()
                    self._look_again.acquire()
                elif self._waiting:
                    self.wake()
        except Exception:
            log.critical("descriptors are watched no more: HTTP and signals will not be heard", exc_info=True)

    # --------------------------------------------------------------------------------------------- the loop's thread

    def select(self, timeout: float | None = None) -> Selected:
        """Wait for events of gRPC, which are taken here, for descriptors, or to be woken.

        Args:
            timeout: Seconds to wait at most; None: for ever (it may return early, with nothing).
        """
        if self._looked_at:  # by now the loop has dealt with them
            self._looked_at = False
            self._look_again.release()
        poll = self.queue.poll
        self._waiting = True
        event = poll(deadline=None if timeout is None else time.time() + timeout if timeout > 0 else 0.0)
        self._waiting = self._woken_up = False
        until_s = time.monotonic() + _TURN_S
        while event.completion_type != core.TIMEOUT:
            self._take(event)
            del event  # before the wait: what holds an ended call keeps gRPC from letting go of it
            if self._woken_up or time.monotonic() > until_s:
                break
            event = poll(deadline=0.0)
        if not self._ready:
            return []
        self._ready = False
        self._looked_at = True
        return self._descriptors.select(0)

    def _take(self, event: Any) -> None:
        try:
            event.tag(event)
        except Exception:  # one call's trouble is not the next one's
            log.exception("an event of gRPC could not be taken")

    def _woken(self, event: Any) -> None:
        self._waking, self._woken_up = False, True

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As of `selectors.BaseSelector`."""
        return self._descriptors.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As of `selectors.BaseSelector`."""
        return self._descriptors.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As of `selectors.BaseSelector`."""
        return self._descriptors.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """As of `selectors.BaseSelector`."""
        return self._descriptors.get_map()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """As of `selectors.BaseSelector`."""
        return self._descriptors.get_key(fileobj)

    def close(self) -> None:
        """Close all. Servers on the queue have ended; what one that has not still serves is cancelled."""
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._end_of_watch, 1)
        self._look_again.release()
        self._watcher.join()
        os.close(self._end_of_watch)
        self._descriptors.close()
        self._waker.close()
        for server in self.servers:
            server.shutdown(self.queue, core.nobody_waits)
            server.cancel_all_calls()
        self._end_queue()

    def _end_queue(self) -> None:
        """Take what is left: gRPC waits for ever, and lets nobody else run, for a queue that is let go of before."""
        self.queue.shutdown()
        until_s = time.time() + _CLOSE_S
        while (event := self.queue.poll(deadline=until_s)).completion_type != core.SHUTDOWN:
            if event.completion_type == core.TIMEOUT:
                log.error("calls of gRPC were still open after %g s", _CLOSE_S)
                break
            with contextlib.suppress(Exception):  # nobody is left to hear of it
                event.tag(event)
