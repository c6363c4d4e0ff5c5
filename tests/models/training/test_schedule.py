"""The learning rate, and where evaluations and ends fall."""

import math
from collections.abc import Iterable

import pytest

from models.training.batches import Batch
from models.training.config import LimitsConfig, ScheduleConfig
from models.training.progress import Position, Progress
from models.training.schedule import multiplier, total_steps
from models.training.stream import RoundStream, Shard


def rate(schedule: ScheduleConfig, step: int, steps: int | None = 110, elapsed_s: float = 0.0) -> float:
    limits = LimitsConfig(steps=steps, max_minutes=1)
    return multiplier(schedule, limits, Progress(Position(step=step), elapsed_s=elapsed_s, rate_factor=0.25), steps)


def test_warmup_is_linear_and_reaches_the_peak() -> None:
    schedule = ScheduleConfig(name="constant", warmup_steps=10)
    assert [rate(schedule, step) for step in (0, 4, 9, 10, 90)] == [0.1, 0.5, 1, 1, 1]


def test_linear_and_cosine_come_down_to_their_end() -> None:
    linear = ScheduleConfig(name="linear", warmup_steps=10, final=0.1)
    assert [rate(linear, step) for step in (10, 60, 110, 200)] == pytest.approx([1, 0.55, 0.1, 0.1])
    cosine = ScheduleConfig(name="cosine", warmup_steps=10)
    assert [rate(cosine, step) for step in (10, 35, 60, 110)] == pytest.approx([1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0])


def test_a_schedule_follows_the_clock_only_when_told() -> None:
    follows = ScheduleConfig(name="linear", follow_time=True)
    assert rate(follows, 0, elapsed_s=30) == pytest.approx(0.5)
    assert rate(follows, 88, elapsed_s=30) == pytest.approx(0.2)
    assert rate(follows, 5, steps=None, elapsed_s=45) == pytest.approx(0.25)
    assert rate(ScheduleConfig(name="linear"), 0, elapsed_s=30) == 1


def test_inverse_square_root_and_plateau() -> None:
    schedule = ScheduleConfig(name="inverse_sqrt", warmup_steps=4)
    assert [rate(schedule, step) for step in (3, 15, 63)] == pytest.approx([1, 0.5, 0.25])
    assert rate(ScheduleConfig(name="plateau"), 7) == 0.25


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({"epochs": 3}, 21), ({"epochs": 3, "steps": 5}, 5), ({"max_minutes": 2}, None)],
)
def test_steps_of_a_run(limits: dict[str, int], expected: int | None) -> None:
    assert total_steps(LimitsConfig.model_validate(limits), 7) == expected


class Numbered:
    """Three batches an epoch, which are (epoch, index)."""

    def num_batches(self, epoch: int) -> int:
        return 3

    def batch(self, epoch: int, index: int) -> Batch:
        return (epoch, index)  # type: ignore[return-value]


def as_is(batches: Iterable[object]) -> list[object]:
    return list(batches)


def rounds(limits: LimitsConfig, every_steps: int | None) -> list[list[object]]:
    """Run to the limit as the trainer does."""
    data, progress, found = Numbered(), Progress(), []
    while not progress.position.at_limit(limits):
        batches: list[object] = []
        for batch in RoundStream(data, progress, limits, every_steps):
            batches.append(batch)
            progress.advance(data)
        found.append(batches)
    return found


def test_a_round_is_an_epoch_or_so_many_steps_and_ends_with_the_run() -> None:
    one, two = [(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1), (1, 2)]
    assert rounds(LimitsConfig(epochs=2), None) == [one, two]
    assert rounds(LimitsConfig(epochs=2), 4) == [[*one, two[0]], two[1:]]
    assert rounds(LimitsConfig(steps=4), None) == [one, two[:1]]


def test_a_stream_begins_where_the_run_is_and_reads_ahead_without_moving_it() -> None:
    progress = Progress(Position(1, 1, 4))
    stream = RoundStream(Numbered(), progress, LimitsConfig(epochs=9), None)
    assert as_is(stream) == [(1, 1), (1, 2)]
    assert as_is(stream) == [(1, 1), (1, 2)]


def test_a_spent_time_budget_ends_a_round_after_one_batch() -> None:
    progress = Progress(elapsed_s=61)
    assert as_is(RoundStream(Numbered(), progress, LimitsConfig(max_minutes=1), None)) == [(0, 0)]


def test_processes_share_the_batches_and_take_the_same_number_of_steps() -> None:
    shards = [Shard(Numbered(), rank, 2) for rank in range(2)]
    assert [shard.num_batches(0) for shard in shards] == [2, 2]
    assert [as_is(shard.batch(0, i) for i in range(2)) for shard in shards] == [[(0, 0), (0, 2)], [(0, 1), (0, 0)]]


def test_progress_comes_back_from_plain_numbers() -> None:
    progress = Progress(Position(1, 2, 3), 4.0, 5, 0.6, 7, 8, 0.9, "why")
    other = Progress()
    other.restore(progress.saved())
    assert other == progress
    with pytest.raises(ValueError, match="progress: expected the keys"):
        other.restore({"position": {}})
