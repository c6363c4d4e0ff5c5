"""Which requests have run out of time."""

import heapq
from collections.abc import Callable
from typing import Final

from service.engine.interface import RequestId

_SWEEP_FROM: Final = 256


class Deadlines:
    """Deadlines by time. Requests that have ended are swept out when there are as many of them as of others.

    Args:
        is_here: Tells whether a request has not ended.
    """

    def __init__(self, is_here: Callable[[RequestId], bool]) -> None:
        self._is_here = is_here
        self._heap: list[tuple[float, RequestId]] = []
        self._sweep_at = _SWEEP_FROM

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline_s: float, request: RequestId) -> None:
        """Note when a request's time is up, on the engine's clock."""
        heapq.heappush(self._heap, (deadline_s, request))
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if self._is_here(entry[1])]
            heapq.heapify(self._heap)
            self._sweep_at = max(_SWEEP_FROM, 2 * len(self._heap))

    def due(self, now: float) -> list[tuple[float, RequestId]]:
        """Take out the requests whose deadline is not after `now`, with their deadlines."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap))
        return due
