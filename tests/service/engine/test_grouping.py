"""Which whole sequences run together: those of like lengths."""

import random

from hypothesis import given
from hypothesis import strategies as st

from service.engine.cost import Costs, RowCost
from service.engine.schedule import ScheduleLimits, WorkItem
from tests.service.engine.schedules import only, patient


def test_like_lengths_run_together() -> None:
    limits = ScheduleLimits(max_padded_tokens=10_000)
    ready = [WorkItem(i, "sequence", 1, length) for i, length in enumerate([50, 5] * 32)]
    assert set(only("sequence", ready, limits).requests) <= set(range(0, 64, 2))  # long ones and no short one
    assert set(only("sequence", ready[1:], limits).requests) <= set(range(1, 64, 2))


def test_those_who_are_most_alike_come_first() -> None:
    limits = ScheduleLimits(max_sequences=3, costs=Costs(time_step=RowCost({1: 9.0, 32: 40.0})))
    for others in ((19, 30, 19, 30), (21, 8, 21, 8)):
        ready = [WorkItem(i, "sequence", 1, length) for i, length in enumerate((20, *others))]
        assert only("sequence", ready, limits).requests == (0, 1, 3)


def test_unlike_lengths_share_a_run_only_where_a_row_costs_little() -> None:
    ready = [WorkItem(0, "sequence", 1, 20), WorkItem(1, "sequence", 1, 12), WorkItem(2, "sequence", 1, 25)]
    dear_runs = ScheduleLimits(costs=Costs(time_step=RowCost({1: 9.0, 32: 40.0})))
    assert only("sequence", ready, dear_runs).requests == (0, 1, 2)
    dear_rows = ScheduleLimits(costs=Costs(run_s=0.0, time_step=RowCost({1: 1.0, 32: 31.0})))
    assert only("sequence", ready, dear_rows).requests == (0,)


def drain_and_best(lengths: list[int], step: float, run_s: float) -> tuple[float, float]:
    """Seconds that all sequences take as planned, and in the best of all ways to group them.

    The best groups are of neighbours in order of length: swapping members so that they are makes no group longer.
    """
    cost = RowCost({1: step + 1, 64: step + 64})
    limits = ScheduleLimits(costs=Costs(run_s, time_step=cost))
    items = [WorkItem(i, "sequence", 1, length) for i, length in enumerate(lengths)]
    planned = 0.0
    while items:
        batch = only("sequence", items, limits)
        longest = max(item.length for item in items if item.request in batch.requests)
        planned += run_s + longest * cost(len(batch.requests))
        items = [item for item in items if item.request not in batch.requests]
    ordered = sorted(lengths)
    best = [0.0]
    for end in range(1, len(lengths) + 1):
        best.append(min(best[start] + run_s + ordered[end - 1] * cost(end - start) for start in range(end)))
    return planned, best[-1]


@patient
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.floats(0.2, 9), st.floats(0, 30))
def test_whole_sequences_take_no_more_than_twice_the_best_grouping(
    lengths: list[int], step: float, run_s: float
) -> None:
    planned, best = drain_and_best(lengths, step, run_s)
    assert planned <= 2 * best


def test_whole_sequences_usually_take_little_more_than_the_best_grouping() -> None:
    rng = random.Random(0)
    ratios = []
    for _ in range(300):
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 9))]
        planned, best = drain_and_best(lengths, rng.uniform(0.2, 9), rng.uniform(0, 30))
        ratios.append(planned / best)
    assert sum(ratios) / len(ratios) < 1.08
    assert max(ratios) > 1  # nobody knows who comes next: the oracle is no copy


def test_random_lengths_are_padded_by_little() -> None:
    rng = random.Random(0)
    ready = [WorkItem(i, "sequence", 1, rng.randint(5, 50)) for i in range(512)]
    lengths = {item.request: item.length for item in ready}
    useful = padded = num_batches = 0
    while ready:
        batch = only("sequence", ready, ScheduleLimits(max_sequences=32))
        chosen = [lengths[request] for request in batch.requests]
        useful, padded = useful + sum(chosen), padded + len(chosen) * max(chosen)
        ready = [item for item in ready if item.request not in batch.requests]
        num_batches += 1
    assert useful / padded > 0.9  # arrival order gives about 0.55
    assert num_batches < 60


def test_characters_are_what_a_tagger_pays_for() -> None:
    """Two sentences of 512 words keep the bound of tokens; with a long word each they are 262144 characters."""
    limits = ScheduleLimits(costs=Costs(time_step=RowCost({1: 1.0, 2: 1.1})))
    ready = [WorkItem(i, "sequence", 1, 512, 256) for i in range(2)]
    assert only("sequence", ready, limits).requests == (0,)
    short = [WorkItem(i, "sequence", 1, 512, 8) for i in range(2)]
    assert only("sequence", short, limits).requests == (0, 1)


def test_a_long_word_is_not_what_everybody_is_padded_to() -> None:
    limits = ScheduleLimits(costs=Costs(time_step=RowCost({1: 1.0, 64: 2.0})))
    ready = [WorkItem(i, "sequence", 1, 10, 60 if i == 7 else 8) for i in range(16)]
    assert only("sequence", ready, limits).requests == (*range(7), *range(8, 16))
    assert only("sequence", [ready[7], *ready[8:]], limits).requests[0] == 7  # it leads as soon as it is the oldest


def test_a_long_word_stops_nobody_behind_it() -> None:
    limits = ScheduleLimits(costs=Costs(time_step=RowCost({1: 1.0, 64: 2.0})))
    sizes = [(10, 8)] * 4 + [(11, 60)] + [(12, 8)] * 4
    ready = [WorkItem(i, "sequence", 1, length, width) for i, (length, width) in enumerate(sizes)]
    assert only("sequence", ready, limits).requests == (0, 1, 2, 3, 5, 6, 7, 8)
