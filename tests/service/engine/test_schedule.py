"""The schedule is a pure function, so what it promises is checked on all kinds of arrivals."""

import random
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.manifest import GraphKind
from service.engine.cost import Costs, RowCost
from service.engine.schedule import PRIORITY_HEAD_START_S, Batch, ScheduleLimits, WorkItem, schedule
from tests.service.engine.schedules import CHUNKING, CHUNKS, GRAPHS, LIMITS, Ready, arrivals, items_of, only, patient

LASTS: tuple[GraphKind | None, ...] = (None, "step", "chunk", "encode", "sequence")


@patient
@given(arrivals(), st.sampled_from(LASTS), st.integers(1, 4))
def test_something_runs_while_anything_is_ready_and_the_oldest_of_its_kind_is_in_it(
    ready: Ready, last: GraphKind | None, idle: int
) -> None:
    batch = schedule(ready, CHUNKING, last, idle)
    if batch is None:
        assert not any(ready.values())
        return
    items = items_of(batch, ready)
    [graph] = {item.graph for item in items}
    assert batch.graph == graph or (batch.graph, graph) == ("chunk", "step")
    assert batch.requests[0] == ready[graph][0].request
    assert list(batch.requests) == sorted(set(batch.requests))  # rows are in order of age, nobody twice


@patient
@given(arrivals(), st.sampled_from(LASTS))
def test_steps_go_first_but_not_twice_while_others_wait(ready: Ready, last: GraphKind | None) -> None:
    batch = schedule(ready, CHUNKING, last)
    others = [graph for graph in GRAPHS[1:] if ready[graph]]
    if batch is None or not (ready["step"] and others):
        return
    if last in ("step", "chunk"):
        assert batch.graph == min(others, key=lambda graph: ready[graph][0].key)
    else:
        assert batch.graph in ("step", "chunk")


@patient
@given(arrivals(), st.sampled_from(LASTS), st.integers(1, 4))
def test_batches_keep_their_bounds_unless_one_item_alone_exceeds_them(
    ready: Ready, last: GraphKind | None, idle: int
) -> None:
    batch = schedule(ready, CHUNKING, last, idle)
    if batch is None or len(batch.requests) == 1:
        return
    items = items_of(batch, ready)
    rows = sum(item.rows for item in items)
    width = max(item.width for item in items)
    if batch.graph in ("step", "chunk"):
        assert rows <= CHUNKING.max_rows
        assert rows * width <= CHUNKING.max_padded_cells
        assert batch.graph == "step" or rows * batch.length <= CHUNKING.max_chunk_tokens
    else:
        padded = rows * max(item.length for item in items)
        assert rows <= CHUNKING.max_sequences
        assert padded <= CHUNKING.max_padded_tokens
        assert padded * width <= CHUNKING.max_padded_cells
        assert batch.length == 0


@patient
@given(arrivals(("step",)), st.integers(1, 4))
def test_a_chunk_takes_only_who_has_that_many_steps(ready: Ready, idle: int) -> None:
    batch = schedule(ready, CHUNKING, None, idle)
    if batch is None:
        return
    assert (batch.graph == "chunk") == (batch.length > 1)
    assert batch.length in (1, 2, 4, 8)
    assert all(item.length >= batch.length for item in items_of(batch, ready))


@patient
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=40),
    st.lists(st.floats(0.01, 5.0), min_size=8, max_size=8),
    st.floats(0, 2),
    st.floats(0, 0.5),
)
def test_the_chunk_is_the_one_that_gets_most_done_for_its_cost(
    lengths: list[int], seconds: list[float], run_s: float, row_s: float
) -> None:
    """Against every number of steps tried by hand, with any costs."""
    points = {steps: tuple(sorted(seconds[2 * i : 2 * i + 2])) for i, steps in enumerate((1, 2, 4, 8))}
    costs = Costs(run_s, row_s, {steps: RowCost({1: few, 16: many}) for steps, (few, many) in points.items()})
    items = [WorkItem(i, "step", 1, length) for i, length in enumerate(lengths)]
    batch = only("step", items, replace(LIMITS, costs=costs))

    def most_rows(steps: int) -> int:
        return 16 if steps == 1 else min(16, 40 // steps)

    def pace(steps: int) -> float:
        rows = min(most_rows(steps), sum(length >= steps for length in lengths))
        few, many = points[steps]
        return rows * steps / (run_s + row_s * rows + few + (many - few) * (rows - 1) / 15)

    assert pace(batch.length) == pytest.approx(max(pace(steps) for steps in (1, 2, 4, 8) if steps <= lengths[0]))
    able = [i for i, length in enumerate(lengths) if length >= batch.length]
    assert list(batch.requests) == able[: most_rows(batch.length)]


def test_no_chunk_runs_where_none_pays() -> None:
    items = [WorkItem(i, "step", 1, 16) for i in range(4)]
    assert only("step", items, replace(CHUNKING, max_chunk=1)) == Batch("step", (0, 1, 2, 3), 1)
    assert only("step", items, CHUNKING) == Batch("chunk", (0, 1, 2, 3), 8)
    assert only("step", items, replace(CHUNKING, max_chunk=4)) == Batch("chunk", (0, 1, 2, 3), 4)


@patient
@given(arrivals(), st.randoms(use_true_random=False), st.integers(1, 3))
def test_nobody_starves_whoever_keeps_arriving(ready: Ready, rng: random.Random, idle: int) -> None:
    """Each turn takes items out and lets as many new ones in; whoever was there at first runs within so many turns."""
    first = {item.request for items in ready.values() for item in items}
    names = count(1000)
    last: GraphKind | None = None
    turns = 0
    while first:
        assert turns <= 121, "somebody starves"  # 60 items, one a turn, and as many turns of steps
        batch = schedule(ready, CHUNKING, last, idle)
        assert batch is not None
        last = batch.graph
        first -= set(batch.requests)
        [graph] = {item.graph for item in items_of(batch, ready)}
        ready[graph] = [item for item in ready[graph] if item.request not in batch.requests]
        for _ in batch.requests:
            length = rng.randint(1, 10 if graph == "step" else 120)
            width = 1 if graph == "step" else rng.randint(1, 30)
            ready[graph].append(WorkItem(next(names), graph, 1, length, width, 1000.0 + turns))
        turns += 1


def test_steps_go_by_age_up_to_the_row_limit() -> None:
    assert only("step", [WorkItem(i, "step", 5, 1) for i in range(6)]) == Batch("step", (0, 1, 2), 1)


def test_an_item_larger_than_a_batch_runs_alone() -> None:
    assert only("step", [WorkItem(0, "step", 40, 1), WorkItem(1, "step", 1, 1)]) == Batch("step", (0,), 1)
    assert only("encode", [WorkItem(0, "encode", 1, 500), WorkItem(1, "encode", 1, 1)]) == Batch("encode", (0,))


def test_steps_that_attend_to_long_sources_share_a_bound() -> None:
    ready = [WorkItem(i, "step", 4, 1, width) for i, width in enumerate((10, 10, 512, 10))]
    limits = ScheduleLimits(max_padded_cells=4096)
    assert only("step", ready, limits).requests == (0, 1)  # 12 rows of 512 positions would be too many
    assert only("step", ready[2:], limits).requests == (2, 3)


@patient
@given(st.integers(1, 200), st.integers(1, 6), st.integers(1, 8))
def test_idle_runners_share_what_is_ready(num_ready: int, idle: int, min_rows: int) -> None:
    limits = ScheduleLimits(max_rows=50, min_rows=min_rows)
    items = [WorkItem(i, "step", 1, 1) for i in range(num_ready)]
    sizes = []
    for others in range(idle, 0, -1):  # one after another they plan
        if items:
            sizes.append(len(only("step", items, limits, others).requests))
            items = items[sizes[-1] :]
    assert sum(sizes) == min(num_ready, 50 * idle)
    if num_ready >= idle * min_rows:
        assert len(sizes) == idle
        assert max(sizes) - min(sizes) <= 1
    else:
        assert min(sizes[:-1], default=min_rows) >= min_rows


def test_who_runs_now_gets_a_share_too() -> None:
    items = [WorkItem(i, "step", 1, 1) for i in range(60)]
    running: list[tuple[GraphKind, int]] = [("step", 4), ("chunk", 4), ("sequence", 60)]
    for others, expected in zip(running, (32, 32, 60), strict=True):
        batch = schedule({"step": items}, ScheduleLimits(), "step", 1, [others])
        assert batch is not None
        assert len(batch.requests) == expected


@pytest.mark.parametrize("num_runners", [1, 2, 3])
def test_at_saturation_no_session_waits_more_than_twice_the_mean(num_runners: int) -> None:
    """Closed loop, 300 sessions with messages of one to eight steps, runs that take what they cost."""
    rng = random.Random(0)
    limits = ScheduleLimits(max_rows=32, max_chunk=8, max_chunk_tokens=64, costs=Costs(0.1, 0.0, CHUNKS))
    backlog = {session: rng.randint(1, 8) for session in range(300)}
    since = dict.fromkeys(backlog, 0.0)
    free = [0.0] * num_runners
    ends: list[tuple[float, Batch]] = []
    waited: dict[int, list[float]] = {session: [] for session in backlog}
    while min(map(len, waited.values())) < 20:
        now = min(free)
        for _, batch in [end for end in ends if end[0] <= now]:
            for session in batch.requests:
                since[session] = now
                backlog[session] = backlog[session] - batch.length or rng.randint(1, 8)
        ends = [end for end in ends if end[0] > now]
        away = {session for _, batch in ends for session in batch.requests}
        ready = sorted((since[session], session) for session in backlog if session not in away)
        items = [WorkItem(s, "step", 1, backlog[s], key=key) for key, s in ready[: limits.window(num_runners)]]
        running = [(batch.graph, len(batch.requests)) for _, batch in ends]
        planned = schedule({"step": items}, limits, "step", num_runners - len(ends), running)
        assert planned is not None
        for session in planned.requests:
            waited[session].append(now - since[session])
        end = now + 0.1 + CHUNKS[planned.length](len(planned.requests))
        ends.append((end, planned))
        free[free.index(now)] = end
    longest = max(max(waits[3:]) for waits in waited.values())  # once it has settled
    assert longest <= 2 * sum(map(sum, waited.values())) / sum(map(len, waited.values()))


def test_low_priority_is_overtaken_only_by_what_comes_within_the_head_start() -> None:
    """Normal work arrives as fast as it can run."""
    now, number = 0.0, 1
    ready = [WorkItem(0, "step", 1, 1, key=now + PRIORITY_HEAD_START_S)]
    while any(item.request == 0 for item in ready):
        assert now < 1.0, "low priority starves"
        ready += [WorkItem(number + i, "step", 1, 1, key=now) for i in range(4)]
        number += 4
        batch = only("step", sorted(ready, key=lambda item: item.key), ScheduleLimits(max_rows=4))
        ready = [item for item in ready if item.request not in batch.requests]
        now += 0.01
    assert now >= PRIORITY_HEAD_START_S


def test_only_the_oldest_of_a_crowd_are_looked_at() -> None:
    rng = random.Random(0)
    ready = [WorkItem(i, "sequence", 1, rng.randint(5, 50), rng.randint(6, 16)) for i in range(50_000)]
    assert only("sequence", ready[:256]) == only("sequence", ready)


@pytest.mark.parametrize(
    "name", ["max_rows", "max_sequences", "max_padded_tokens", "max_chunk", "max_chunk_tokens", "min_rows"]
)
def test_limits_that_admit_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        replace(LIMITS, **{name: 0})  # type: ignore[arg-type]
