"""What is ready to run, oldest first.

The queue of each kind is one list in order of age. Work mostly comes in that order, which is an append, and mostly
leaves from the front. What leaves is only forgotten; its place in the list is swept out when it is next come across, so
that no operation looks at everything: with 10,000 sessions ready a turn costs little more than with a hundred.
"""

from bisect import insort
from itertools import count
from typing import Final

from export.manifest import GraphKind
from service.engine.interface import RequestId
from service.engine.schedule import ALIKE_WINDOW, WorkItem

_KINDS: Final[tuple[GraphKind, ...]] = ("step", "encode", "sequence", "run")
_SWEEP_FROM: Final = 64  # places without anybody that a queue of any length may have


class ReadyQueue:
    """The work items that wait for a runner, at most one a request. Not thread-safe."""

    def __init__(self) -> None:
        # By kind (key, number, request); the number, in order of arrival, makes each place unique.
        self._places: dict[GraphKind, list[tuple[float, int, RequestId]]] = {kind: [] for kind in _KINDS}
        self._left: dict[GraphKind, int] = dict.fromkeys(_KINDS, 0)  # how many of those places nobody has
        self._items: dict[RequestId, tuple[int, WorkItem]] = {}  # with the number of its place
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._items

    def add(self, item: WorkItem) -> None:
        """Put an item in, instead of what is there of its request; if that has the same key, in its very place."""
        request, graph, _, _, _, key, _ = item
        there = self._items.get(request)
        if there is not None:
            if there[1].key == key and there[1].graph == graph:
                self._items[request] = (there[0], item)
                return
            self.discard(request)
        number = next(self._numbers)
        place = (key, number, request)
        places = self._places[graph]
        if not places or places[-1] < place:
            places.append(place)
        else:
            insort(places, place)
        self._items[request] = (number, item)

    def discard(self, request: RequestId) -> None:
        """Take an item out, if it is there."""
        there = self._items.pop(request, None)
        if there is None:
            return
        graph = there[1].graph
        self._left[graph] += 1
        if self._left[graph] > _SWEEP_FROM + len(self._places[graph]) // 2:
            self._window(graph, len(self._places[graph]))

    def window(self, limit: int) -> dict[GraphKind, list[WorkItem]]:
        """The oldest of each kind, smallest key first.

        Args:
            limit: Most steps, at least 1; see `ScheduleLimits.window`. Of the other kinds, whose batches are chosen by
                likeness, ALIKE_WINDOW are given.
        """
        return {graph: self._window(graph, limit if graph == "step" else ALIKE_WINDOW) for graph in _KINDS}

    def _window(self, graph: GraphKind, limit: int) -> list[WorkItem]:
        """The oldest of one kind, with the places among them swept."""
        places, items = self._places[graph], self._items
        found: list[WorkItem] = []
        kept: list[tuple[float, int, RequestId]] = []
        seen = 0
        for place in places:
            seen += 1
            there = items.get(place[2])
            if there is not None and there[0] == place[1]:
                kept.append(place)
                found.append(there[1])
                if len(found) == limit:
                    break
        if len(kept) < seen:
            self._left[graph] -= seen - len(kept)
            places[:seen] = kept
        return found
