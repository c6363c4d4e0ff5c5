"""The schedule is a pure function, so what it promises is checked on all kinds of arrivals."""

import random

from hypothesis import given
from hypothesis import strategies as st

from export.manifest import GraphKind
from service.engine.schedule import Batch, ScheduleLimits, WorkItem, schedule

LIMITS = ScheduleLimits(max_rows=16, max_padded_tokens=100, max_padded_cells=400)
GRAPHS: tuple[GraphKind, ...] = ("step", "encode", "sequence")


@st.composite
def arrivals(draw: st.DrawFn) -> list[WorkItem]:
    made = []
    for request in range(draw(st.integers(0, 60))):
        graph = draw(st.sampled_from(GRAPHS))
        rows, length = (draw(st.integers(1, 20)), 1) if graph == "step" else (1, draw(st.integers(1, 120)))
        made.append(WorkItem(request, graph, rows, length, draw(st.integers(1, 30))))
    return made


@given(arrivals())
def test_every_kind_that_is_ready_runs_and_starts_with_its_oldest(ready: list[WorkItem]) -> None:
    plan = schedule(ready, LIMITS)
    assert [batch.graph for batch in plan] == [g for g in GRAPHS if any(item.graph == g for item in ready)]
    for batch in plan:
        oldest = next(item.request for item in ready if item.graph == batch.graph)
        assert batch.requests[0] == oldest  # rows are in order of age, too
        assert list(batch.requests) == sorted(set(batch.requests))


@given(arrivals())
def test_batches_keep_their_bounds_unless_one_item_alone_exceeds_them(ready: list[WorkItem]) -> None:
    by_request = {item.request: item for item in ready}
    for batch in schedule(ready, LIMITS):
        items = [by_request[request] for request in batch.requests]
        assert all(item.graph == batch.graph for item in items)
        rows = sum(item.rows for item in items)
        padded = rows * max(item.length for item in items)
        cells = padded * max(item.width for item in items)
        if len(items) > 1:
            assert cells <= LIMITS.max_padded_cells
            assert rows <= LIMITS.max_rows
            assert batch.graph == "step" or padded <= LIMITS.max_padded_tokens


@given(arrivals(), st.randoms(use_true_random=False))
def test_nobody_starves_whoever_keeps_arriving(ready: list[WorkItem], rng: random.Random) -> None:
    """Each turn takes items out and lets as many new ones in; whoever was there at first runs within so many turns."""
    first = {item.request for item in ready}
    turns = 0
    while first:
        assert turns <= 60, "somebody starves"
        for batch in schedule(ready, LIMITS):
            first -= set(batch.requests)
            ready = [item for item in ready if item.request not in batch.requests]
            for _ in batch.requests:
                length = 1 if batch.graph == "step" else rng.randint(1, 120)
                ready.append(WorkItem(1000 + rng.randrange(10**9), batch.graph, 1, length, rng.randint(1, 30)))
        turns += 1


def test_steps_go_by_age_up_to_the_row_limit() -> None:
    ready = [WorkItem(i, "step", 5, 1) for i in range(6)]
    assert schedule(ready, LIMITS) == [Batch("step", (0, 1, 2))]


def test_an_item_larger_than_a_batch_runs_alone() -> None:
    ready = [WorkItem(0, "step", 40, 1), WorkItem(1, "step", 1, 1), WorkItem(2, "encode", 1, 500)]
    assert schedule(ready, LIMITS) == [Batch("step", (0,)), Batch("encode", (2,))]


def test_like_lengths_run_together() -> None:
    limits = ScheduleLimits(max_rows=64, max_padded_tokens=10_000)
    lengths = [50, 5] * 32
    ready = [WorkItem(i, "sequence", 1, length) for i, length in enumerate(lengths)]
    [batch] = schedule(ready, limits)
    assert batch.requests == tuple(range(0, 64, 2))  # all the long ones and no short one
    rest = [item for item in ready if item.request not in batch.requests]
    assert schedule(rest, limits) == [Batch("sequence", tuple(range(1, 64, 2)))]


def test_a_small_batch_takes_unlike_lengths_rather_than_wait() -> None:
    ready = [WorkItem(0, "sequence", 1, 20), WorkItem(1, "sequence", 1, 12), WorkItem(2, "sequence", 1, 25)]
    assert schedule(ready, ScheduleLimits()) == [Batch("sequence", (0, 1, 2))]


def test_random_lengths_are_padded_by_little() -> None:
    rng = random.Random(0)
    ready = [WorkItem(i, "sequence", 1, rng.randint(5, 50)) for i in range(512)]
    lengths = {item.request: item.length for item in ready}
    useful = padded = num_batches = 0
    while ready:
        [batch] = schedule(ready, ScheduleLimits(max_rows=32, max_padded_tokens=1024))
        chosen = [lengths[request] for request in batch.requests]
        useful, padded = useful + sum(chosen), padded + len(chosen) * max(chosen)
        ready = [item for item in ready if item.request not in batch.requests]
        num_batches += 1
    assert useful / padded > 0.85  # arrival order gives about 0.55
    assert num_batches < 40


def test_characters_are_what_a_tagger_pays_for() -> None:
    """Two sentences of 512 words keep the bound of tokens; with a long word each they are 262144 characters."""
    ready = [WorkItem(i, "sequence", 1, 512, 256) for i in range(2)]
    assert schedule(ready, ScheduleLimits()) == [Batch("sequence", (0,))]
    short = [WorkItem(i, "sequence", 1, 512, 8) for i in range(2)]
    assert schedule(short, ScheduleLimits()) == [Batch("sequence", (0, 1))]


def test_a_long_word_is_not_what_everybody_is_padded_to() -> None:
    ready = [WorkItem(i, "sequence", 1, 10, 60 if i == 7 else 8) for i in range(16)]
    [batch] = schedule(ready, ScheduleLimits())
    assert batch.requests == (*range(7), *range(8, 16))
    [alone] = schedule([ready[7], *ready[8:]], ScheduleLimits())
    assert alone.requests[0] == 7  # it leads as soon as it is the oldest


def test_steps_that_attend_to_long_sources_share_a_bound() -> None:
    ready = [WorkItem(i, "step", 4, 1, width) for i, width in enumerate((10, 10, 512, 10))]
    limits = ScheduleLimits(max_padded_cells=4096)
    assert schedule(ready, limits) == [Batch("step", (0, 1))]  # 12 rows of 512 positions would be too many
    assert schedule(ready[2:], limits) == [Batch("step", (2, 3))]


def test_a_crowd_is_planned_in_far_less_time_than_its_batch_runs() -> None:
    rng = random.Random(0)
    ready = [WorkItem(i, "sequence", 1, rng.randint(5, 50), rng.randint(6, 16)) for i in range(50_000)]
    few = ready[:1000]
    assert schedule(few, ScheduleLimits()) == schedule(ready, ScheduleLimits())  # only the oldest are looked at
