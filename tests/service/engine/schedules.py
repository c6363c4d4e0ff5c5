"""Limits of a schedule, and work that is ready for it."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st

from export.manifest import GraphKind
from service.engine.cost import Costs, RowCost
from service.engine.schedule import Batch, ScheduleLimits, WorkItem, schedule

LIMITS = ScheduleLimits(
    16, max_sequences=12, max_padded_tokens=100, max_padded_cells=400, max_chunk=8, max_chunk_tokens=40
)
CHUNKS = {steps: RowCost({1: 1.0 + 0.3 * steps, 16: 2.0 + 1.5 * steps}) for steps in (1, 2, 4, 8)}
CHUNKING = replace(LIMITS, costs=Costs(0.1, 0.0, CHUNKS))
GRAPHS: tuple[GraphKind, ...] = ("step", "encode", "sequence")
Ready = dict[GraphKind, list[WorkItem]]
patient = settings(deadline=None)  # a busy machine is no fault of the schedule


@st.composite
def arrivals(draw: st.DrawFn, graphs: tuple[GraphKind, ...] = GRAPHS) -> Ready:
    ready: Ready = {graph: [] for graph in GRAPHS}
    for request in range(draw(st.integers(0, 60))):
        graph = draw(st.sampled_from(graphs))
        if graph != "step":
            rows, length, width = 1, draw(st.integers(1, 120)), draw(st.integers(1, 30))
        elif draw(st.booleans()):
            rows, length, width = draw(st.integers(1, 20)), 1, draw(st.integers(1, 30))  # a beam
        else:
            rows, length, width = 1, draw(st.integers(1, 20)), 1  # a session
        ready[graph].append(WorkItem(request, graph, rows, length, width, float(request)))
    return ready


def items_of(batch: Batch, ready: Mapping[GraphKind, list[WorkItem]]) -> list[WorkItem]:
    by_request = {item.request: item for items in ready.values() for item in items}
    return [by_request[request] for request in batch.requests]


def only(graph: GraphKind, items: list[WorkItem], limits: ScheduleLimits = LIMITS, idle_runners: int = 1) -> Batch:
    """What is planned where only one kind is ready."""
    batch = schedule({graph: items}, limits, None, idle_runners)
    assert batch is not None
    return batch
