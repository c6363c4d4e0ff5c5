"""Runs of imported models that fail or do not end, on a runner in NumPy whose time is the test's."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from export.manifest import GraphKind
from service.engine.run_watch import RunWatch
from service.engine.runs import Arrays, Part, Plan
from service.engine.tensor_runs import TensorRuns
from service.engine.tensor_session import TensorSession
from service.errors import InternalFailure, InvalidInput, ShuttingDown
from service.runtime.errors import RunEnded
from tests.service.tensor_models import write_patient

MAX_RUN_S = 10.0
TICK_S = 0.25  # of the clock, and between looks of the watch
ENDLESS = 10**6
BROKEN = -1
RUBBISH = 1000.0


class PatientRunner:
    """Takes the most seconds that any row says in `turns`, and adds them to the row's `total`.

    While it runs the states of all rows are rubbish; a row that says BROKEN makes it fail.

    Attributes:
        runs: Rows of every run so far.
        totals: The state pool.
    """

    def __init__(self, folder: Path, num_slots: int = 64, indexes_rows: bool = True) -> None:
        self.manifest = write_patient(folder)
        self.num_slots, self.num_memory_rows, self.indexes_rows = num_slots, 0, indexes_rows
        self.totals = np.arange(num_slots, dtype=np.float32)
        self.runs: list[int] = []
        self.now_s = 100.0
        self.away_s = 0.0  # that others had the core
        self.stalls = list[int]()  # numbers of the runs that get no core for a second
        self.work = TensorRuns(self, MAX_RUN_S, lambda: self.now_s, lambda: self.now_s - self.away_s)
        self.hurry_at_s = float("inf")
        self._ended = False
        self._output = np.zeros((num_slots, 1), np.float32)  # good until the next run

    def run(self, kind: GraphKind, inputs: Arrays, outputs: Sequence[str], lane: int = 0) -> Arrays:
        turns, rows = inputs["turns"], inputs["write_slots"]
        assert (kind, lane, tuple(outputs)) == ("step", 3, ("total",))
        self.runs.append(len(rows))
        old = self.totals[inputs["read_slots"]]
        self.totals[rows] = RUBBISH
        if BROKEN in turns:
            raise ValueError("index out of range\nin some node")
        stalled = len(self.runs) in self.stalls
        until_s = self.now_s + int(turns.max()) + stalled
        self._ended = False
        while self.now_s < until_s:
            self.now_s += TICK_S
            self.away_s += stalled * TICK_S
            if self.now_s >= self.hurry_at_s:
                self.work.end([3])
            self.work._watch.look()
            if self._ended:
                raise RunEnded
        self.totals[rows] = old + turns
        self._output[: len(rows), 0] = self.totals[rows]
        return {"total": self._output[: len(rows)]}

    def end_run(self, lane: int) -> None:
        assert lane == 3
        self._ended = True

    def read_rows(self, rows: Sequence[int]) -> Arrays:
        return {"total": self.totals[list(rows)]}

    def write_rows(self, rows: Sequence[int], tensors: Arrays) -> None:
        self.totals[list(rows)] = tensors["total"]


class Batch:
    """Steps of as many sessions, each in a slot of its own, from the second on."""

    def __init__(self, runner: PatientRunner, turns: Sequence[int]) -> None:
        self.runner, self.turns = runner, turns
        self.before = runner.totals.copy()
        self.works = [self._session(2 + i, wanted) for i, wanted in enumerate(turns)]
        self.parts: list[Part] = []
        self.early: list[tuple[float, Part]] = []  # delivered before the others, and when

    def _session(self, row: int, turns: int) -> TensorSession:
        session = cast(Any, object.__new__(TensorSession))
        session.read_rows = session.write_rows = (row,)
        session.inputs, session.shared = {"turns": np.array([turns])}, {}
        return cast(TensorSession, session)

    def run(self) -> None:
        inputs = self.runner.work.feeds("step", self.works, 0)
        plan = Plan("step", inputs, ("total",), self.works, len(self.works), self.runner.now_s)
        self.parts = []
        self.parts += self.runner.work.run(plan, 3, self._deliver)
        assert sorted(id(work) for part in self.parts for work in part.works) == sorted(map(id, self.works))

    def _deliver(self, parts: Sequence[Part]) -> None:
        self.parts += parts
        self.early += [(self.runner.now_s, part) for part in parts]

    def outcome(self, index: int) -> Any:
        """What a step gave, or the error that its caller is told."""
        for part in self.parts:
            for place, work in enumerate(part.works):
                if work is self.works[index]:
                    return part.outputs["total"][place].item() if isinstance(part.outputs, dict) else part.outputs
        raise AssertionError(index)

    def check_answered(self, indices: Sequence[int]) -> None:
        """Each has taken its step once."""
        for i in indices:
            assert self.outcome(i) == self.before[2 + i] + self.turns[i] == self.runner.totals[2 + i]


@pytest.mark.parametrize("endless", [[0], [7], [3, 4], [0, 7]])
def test_an_endless_step_fails_alone(tmp_path: Path, endless: list[int]) -> None:
    runner = PatientRunner(tmp_path)
    batch = Batch(runner, [ENDLESS if i in endless else i % 2 for i in range(8)])
    batch.run()
    for i in endless:
        error = batch.outcome(i)
        assert isinstance(error, InvalidInput)
        assert "expected values with which a run ends within " in str(error)
    batch.check_answered([i for i in range(8) if i not in endless])
    assert runner.totals[[0, 1, *range(10, 64)]].tolist() == [0, 1, *range(10, 64)]


def test_endless_and_broken_steps_in_one_batch_are_told_apart(tmp_path: Path) -> None:
    runner = PatientRunner(tmp_path)
    batch = Batch(runner, [0, BROKEN, 1, 0, ENDLESS, 0, 1])
    batch.run()
    assert "values that the model can be run on" in str(batch.outcome(1))
    assert "ends within 10 s" in str(batch.outcome(4))
    batch.check_answered([0, 2, 3, 5, 6])


def test_who_is_slow_alone_gets_all_of_the_time_and_those_beside_are_not_kept_waiting(tmp_path: Path) -> None:
    """9 s are more than a piece gets beside an endless one, and less than a run may take."""
    runner = PatientRunner(tmp_path)
    batch = Batch(runner, [0, 9, ENDLESS, 0])
    began_s = runner.now_s
    batch.run()
    batch.check_answered([0, 1, 3])
    error = batch.outcome(2)
    assert isinstance(error, InvalidInput) and "a run ends within 10 s" in str(error)
    assert [part.works[0] for _, part in batch.early] == [batch.works[0], batch.works[3]]
    assert all(now_s - began_s < 1.3 * MAX_RUN_S for now_s, _ in batch.early)


def test_a_crowd_of_endless_steps_costs_those_beside_them_moments(tmp_path: Path) -> None:
    runner = PatientRunner(tmp_path)
    Batch(runner, [0, 0]).run()
    turns = [ENDLESS if i % 2 else 0 for i in range(24)]
    for first_s in (MAX_RUN_S, TICK_S, TICK_S):
        batch = Batch(runner, turns)
        began_s = runner.now_s
        batch.run()
        batch.check_answered(range(0, 24, 2))
        assert [type(batch.outcome(i)) for i in range(1, 24, 2)] == [InvalidInput] * 12
        told_s = batch.early[0][0] if batch.early else runner.now_s
        assert told_s - began_s <= first_s + 12 * 2 * TICK_S


def test_slow_requests_of_one_lane_leave_the_other_lanes_alone(tmp_path: Path) -> None:
    """While one lane spends what may be spent on them, none of another lane are run again."""
    runner = PatientRunner(tmp_path)
    batch, beside = Batch(runner, [0, ENDLESS]), Batch(runner, [ENDLESS, ENDLESS, ENDLESS])
    deliver = batch._deliver

    def meanwhile(parts: Sequence[Part]) -> None:
        deliver(parts)
        began_s = runner.now_s
        beside.run()
        assert runner.now_s - began_s < MAX_RUN_S / 2

    batch._deliver = meanwhile  # type: ignore[method-assign]
    batch.run()
    assert [type(beside.outcome(i)) for i in range(3)] == [InvalidInput] * 3


def test_the_time_that_is_spent_on_endless_steps_is_bounded_for_good(tmp_path: Path) -> None:
    runner = PatientRunner(tmp_path)
    began_s = runner.now_s
    for _ in range(10):
        batch = Batch(runner, [ENDLESS] * 40)
        batch.run()
        assert [type(batch.outcome(i)) for i in range(40)] == [InvalidInput] * 40
        assert runner.totals.tolist() == batch.before.tolist()
    short_s = 1.0 + TICK_S  # of a run, where none has come to an end
    spent_s = runner.now_s - began_s - 10 * 41 * short_s
    assert spent_s <= MAX_RUN_S * (1 + 3 + 1) + 0.1 * (runner.now_s - began_s)


def test_a_step_that_got_no_core_is_not_taken_for_one_that_does_not_end(tmp_path: Path) -> None:
    """Where nothing is left to spend on slow ones."""
    runner = PatientRunner(tmp_path)
    for _ in range(2):
        Batch(runner, [0, *[ENDLESS] * 20]).run()
    batch = Batch(runner, [0, 0, ENDLESS])
    runner.stalls.append(len(runner.runs) + 2)
    batch.run()
    assert not batch.early and runner.away_s > 0
    batch.check_answered([0, 1])


def test_after_some_quiet_time_a_batch_has_all_of_its_time_again(tmp_path: Path) -> None:
    runner = PatientRunner(tmp_path)
    Batch(runner, [0, ENDLESS]).run()
    runner.runs.clear()
    batch = Batch(runner, [0, 9])
    batch.run()
    assert runner.runs[0] == 2 and len(runner.runs) > 1  # the batch was given up and run one by one
    batch.check_answered([0, 1])
    runner.now_s += 11 * MAX_RUN_S
    runner.runs.clear()
    batch = Batch(runner, [0, 9])
    batch.run()
    assert runner.runs == [2]
    batch.check_answered([0, 1])


def test_a_run_of_one_request_that_does_not_end_is_not_tried_again(tmp_path: Path) -> None:
    runner = PatientRunner(tmp_path)
    batch = Batch(runner, [ENDLESS])
    batch.run()
    assert runner.runs == [1] and isinstance(batch.outcome(0), InvalidInput)


def test_where_rows_cannot_be_taken_back_all_fail_and_nobody_is_blamed(tmp_path: Path) -> None:
    runner = PatientRunner(tmp_path, indexes_rows=False)
    for turns in ([0, ENDLESS], [BROKEN, 0]):
        batch = Batch(runner, turns)
        batch.run()
        assert [type(batch.outcome(i)) for i in range(2)] == [InternalFailure] * 2
    assert runner.runs == [2, 2]


@pytest.mark.parametrize("after_s", [1.0, MAX_RUN_S + 2.0])
def test_closing_ends_what_runs_and_begins_nothing_else(tmp_path: Path, after_s: float) -> None:
    """In the first run of a batch, or in that of a piece."""
    runner = PatientRunner(tmp_path)
    batch = Batch(runner, [0] * 7 + [ENDLESS])
    runner.hurry_at_s = runner.now_s + after_s
    batch.run()
    assert runner.now_s - runner.hurry_at_s <= TICK_S
    assert isinstance(batch.outcome(7), ShuttingDown)


def test_there_is_one_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Batch(PatientRunner(tmp_path), [0, ENDLESS, 1, 0, 1, ENDLESS]).run()
    [record] = caplog.records
    expected = "model tensors: a run of 6 requests failed: it took longer than 10 s and was ended"
    assert record.getMessage() == expected


def test_the_log_has_no_more_than_a_line_a_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = PatientRunner(tmp_path)
    for after_s in (0.0, 0.5, 0.4, 0.2):
        runner.now_s += after_s
        Batch(runner, [0, BROKEN]).run()
    assert [record.getMessage() for record in caplog.records] == [
        "model tensors: a run of 2 requests failed: index out of range"
    ] * 2


def test_a_watch_ends_runs_after_their_time_and_again_until_they_are_over() -> None:
    now, ended = [0.0], list[int]()
    watch = RunWatch("m", ended.append, lambda: now[0])
    watch.begin(0, 5.0)
    watch.begin(1, 7.0)
    for now[0] in (1.0, 5.0):
        watch.look()
    assert ended == []
    for now[0] in (5.5, 6.0, 7.5):
        watch.look()
    assert ended == [0, 0, 0, 1]
    watch.end(0)
    watch.begin(0, 5.0)  # the next run in the lane has its own time
    watch.look()
    assert ended == [0, 0, 0, 1, 1]
    watch.end(1)
    watch.hurry()
    watch.end(0)
    watch.begin(1, 5.0)
    watch.look()
    assert ended == [0, 0, 0, 1, 1, 0, 1]
    watch.close()
