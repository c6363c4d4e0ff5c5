"""The queue against a list that is sorted anew each time."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from export.manifest import GraphKind
from service.engine.ready import ReadyQueue
from service.engine.schedule import ALIKE_WINDOW, WorkItem

GRAPHS: tuple[GraphKind, ...] = ("step", "encode", "sequence")
REQUESTS = st.integers(0, 40)


class QueueMachine(RuleBasedStateMachine):
    """`model` holds (key, arrival, item) by request; arrival stays where an item is renewed with its key."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = ReadyQueue()
        self.model: dict[int, tuple[float, int, WorkItem]] = {}
        self.arrivals = 0

    @rule(request=REQUESTS, graph=st.sampled_from(GRAPHS), length=st.integers(1, 9), key=st.integers(0, 5))
    def add(self, request: int, graph: GraphKind, length: int, key: int) -> None:
        item = WorkItem(request, graph, 1, length, key=float(key))
        self.queue.add(item)
        there = self.model.get(request)
        if there is not None and there[2].graph == graph and there[0] == key:
            self.model[request] = (there[0], there[1], item)
        else:
            self.arrivals += 1
            self.model[request] = (float(key), self.arrivals, item)

    @rule(request=REQUESTS)
    def discard(self, request: int) -> None:
        self.queue.discard(request)
        self.model.pop(request, None)

    @rule(limit=st.integers(1, 50))
    def look(self, limit: int) -> None:
        for graph, items in self.queue.window(limit).items():
            expected = [entry[2] for entry in sorted(self.model.values()) if entry[2].graph == graph]
            assert items == expected[: limit if graph == "step" else ALIKE_WINDOW]

    @invariant()
    def knows_who_is_there(self) -> None:
        assert len(self.queue) == len(self.model)
        assert all((request in self.queue) == (request in self.model) for request in range(41))


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), max_size=60))
def test_work_comes_out_in_order_of_age_whatever_order_it_came_in(keys: list[float]) -> None:
    queue = ReadyQueue()
    for request, key in enumerate(keys):
        queue.add(WorkItem(request, "step", 1, 1, key=key))
    assert [item.request for item in queue.window(100)["step"]] == sorted(range(len(keys)), key=lambda i: (keys[i], i))


def test_a_session_whose_backlog_grows_keeps_its_turn() -> None:
    queue = ReadyQueue()
    for request in range(3):
        queue.add(WorkItem(request, "step", 1, 1, key=1.0))
    queue.add(WorkItem(0, "step", 1, 5, key=1.0))
    assert [(item.request, item.length) for item in queue.window(3)["step"]] == [(0, 5), (1, 1), (2, 1)]


def test_places_of_who_left_do_not_pile_up() -> None:
    """Somebody stays at the front while many come and go behind, beyond every window."""
    queue = ReadyQueue()
    for request in range(100):
        queue.add(WorkItem(request, "step", 1, 1, key=0.0))
    for request in range(1000, 11_000):
        queue.add(WorkItem(request, "step", 1, 1, key=float(request)))
        queue.discard(request)
        queue.window(10)
    assert len(queue) == 100
    assert sum(map(len, queue._places.values())) < 400
