"""Request-level batching, for comparison: requests that start together are decoded to their end together.

It is what a server does that calls a whole decoding as one operation (Yu et al. 2022, Orca, section 3): who arrives
meanwhile waits for the batch to end, rows of requests that are done are computed on as padding, and answers come when
the last request of the batch is done.
"""

from collections.abc import Iterable, Mapping, Sequence

from export.manifest import GraphKind
from service.engine.interface import Event, RequestId
from service.engine.schedule import Batch, WorkItem


class Group:
    """One batch of requests.

    Attributes:
        members: Those that are not done.
        events: What will be published at the end.
        num_rows: Rows of its largest step so far, which later ones are padded to.
    """

    def __init__(self, members: Iterable[RequestId]) -> None:
        self.members = set(members)
        self.events: list[Event] = []
        self.num_rows = 0


class Groups:
    """All batches under way.

    Args:
        most: How many there may be at a time: one a runner.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[RequestId, Group] = {}

    @property
    def can_begin(self) -> bool:
        """Whether another batch may begin."""
        return len({id(group) for group in self._of.values()}) < self._most

    def begin(self, members: Sequence[RequestId]) -> None:
        """Begin a batch."""
        group = Group(members)
        for member in members:
            self._of[member] = group

    def of(self, request: RequestId) -> Group | None:
        """The batch that a request is in."""
        return self._of.get(request)

    def leave(self, request: RequestId) -> list[Event]:
        """Take a request out; gives what is to be published if it was the last one."""
        group = self._of.pop(request, None)
        if group is None:
            return []
        group.members.discard(request)
        return [] if group.members else group.events

    def plan(self, ready: Mapping[GraphKind, Sequence[WorkItem]], most_tokens: int) -> Batch | None:
        """All of the oldest batch that want the same graph; None if no batch is ready."""
        items = [item for kind in ("encode", "step") for item in ready.get(kind, ()) if item.request in self._of]
        if not items:
            return None
        oldest = min(items, key=lambda item: item.key)
        group, graph = self._of[oldest.request], oldest.graph
        together = [item for item in items if self._of[item.request] is group and item.graph == graph]
        if graph == "encode":  # a padded run is bounded as ever
            longest = max(item.length for item in together)
            together = together[: max(1, most_tokens // longest)]
        else:
            group.num_rows = max(group.num_rows, sum(item.rows for item in together))
        return Batch(graph, tuple(item.request for item in together), int(graph == "step"))
