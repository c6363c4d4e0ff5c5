"""Which requests have run out of time."""

import heapq

from service.engine.interface import RequestId


class Deadlines:
    """Deadlines by time. Ended requests are not taken out; they are passed over when their time comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, RequestId]] = []

    def add(self, deadline_s: float, request: RequestId) -> None:
        """Note a deadline, on the engine's clock."""
        heapq.heappush(self._heap, (deadline_s, request))

    def due(self, now: float) -> list[tuple[float, RequestId]]:
        """Take out the requests whose deadline is not after `now`, with their deadlines."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap))
        return due
