"""Imported models in the engine: sums that plain Python keeps as well."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from export.manifest import DType, storage
from service.engine import engine as engine_module
from service.engine.interface import (
    Cancelled,
    CloseSession,
    ExportSession,
    ForkSession,
    OpenSession,
    RequestId,
    RunTensors,
    SessionState,
    StepSession,
    StepTensors,
    TensorOutputs,
)
from service.engine.limits import EngineLimits
from service.engine.runs import Part
from service.engine.schedule import ScheduleLimits
from service.engine.tensor_runs import TensorRuns
from service.errors import InternalFailure, InvalidInput, ShuttingDown, WrongTask
from service.measuring.invariance import probe_invariance
from service.measuring.profile import measure
from tests.service.engine.harness import Harness, open_tiny, running
from tests.service.engine.scripted import Gate, ScriptedRunner
from tests.service.engine.test_runners import ByHand
from tests.service.tensor_models import (
    INITIAL_TOTAL,
    LOOKUP,
    write_accumulator,
    write_endless,
    write_identity,
    write_lookup,
    write_padded,
    write_patient,
)

Array = npt.NDArray[np.float32]
TIMEOUT_S: Final = 60.0
ALL = ("total", "count", "twice")


def step(
    harness: Harness, session: int, values: Array, scale: float = 1.0, outputs: tuple[str, ...] = ALL
) -> RequestId:
    shared = {"scale": np.array(scale, np.float32)}
    return harness.submit(StepTensors(harness.new_id(), session, {"values": values}, shared, len(values), outputs))


def tensors(harness: Harness, request: RequestId) -> TensorOutputs:
    value = harness.value(request)
    assert isinstance(value, TensorOutputs)
    return value


def numbers(generator: random.Random, num_steps: int, width: int) -> Array:
    return np.array([[generator.randrange(9) for _ in range(width)] for _ in range(num_steps)], np.float32)


def test_one_session_counts(tmp_path: Path) -> None:
    with running(open_tiny(tmp_path, write_accumulator(tmp_path))) as harness:
        harness.open(1)
        one = tensors(harness, step(harness, 1, np.array([[1, 2]], np.float32)))
        assert one.tensors["total"].tolist() == [[INITIAL_TOTAL + 3]] and one.num_steps == 1
        assert one.tensors["twice"].tolist() == [[1, 2, 1, 2]]
        three = np.array([[1], [2], [4]], np.float32)
        assert isinstance(harness.error(step(harness, 1, three)), InvalidInput)  # of unequal sizes, perhaps
        more = tensors(harness, step(harness, 1, three, 10.0, ("total", "count")))
        assert more.tensors["total"].tolist() == [[18], [38], [78]]
        assert more.tensors["count"].tolist() == [2, 3, 4] and more.num_steps == 4
        state = harness.value(harness.submit(ExportSession(harness.new_id(), 1)))
        assert isinstance(state, SessionState)
        assert {name: array.tolist() for name, array in state.tensors.items()} == {"total": [78.0], "count": 4}
        harness.close(1)


@pytest.mark.parametrize("num_runners", [1, 3])
def test_sessions_of_all_kinds_side_by_side(tmp_path: Path, num_runners: int) -> None:
    """Widths, scales, lengths and outputs differ; half of the sessions are out of the pool at any time."""
    generator = random.Random(num_runners)
    limits = EngineLimits(session_slots=12, max_sessions=100, max_host_bytes=10_000, batch=ScheduleLimits(max_rows=8))
    with running(open_tiny(tmp_path, write_accumulator(tmp_path), 16), limits, num_runners=num_runners) as harness:
        totals = {session: INITIAL_TOTAL for session in range(1, 25)}
        counts = dict.fromkeys(totals, 0)
        asked: list[tuple[RequestId, tuple[str, ...], Array, list[int], list[int]]] = []
        for session in totals:
            harness.open(session)
        for turn in range(400):
            session = generator.choice(list(totals))
            wanted = generator.choice([ALL, ("count",), ("total", "count"), ("twice", "total"), ()])
            most = 1 if "twice" in wanted else 5  # whose sizes may differ from step to step
            values = numbers(generator, generator.choice([1, 1, 2, most]) if most > 1 else 1, generator.choice([1, 3]))
            scale = generator.choice([1, 2])
            expected_totals, expected_counts = [], []
            for row in values:
                totals[session] += scale * int(row.sum())
                counts[session] += 1
                expected_totals.append(totals[session])
                expected_counts.append(counts[session])
            request = step(harness, session, values, scale, wanted)
            asked.append((request, wanted, values, expected_totals, expected_counts))
            if turn % 20 == 19:
                forked = 100 + turn
                harness.submit(ForkSession(harness.new_id(), session, forked))
                totals[forked], counts[forked] = totals[session], counts[session]
        for request, wanted, values, expected_totals, expected_counts in asked:
            outputs = tensors(harness, request).tensors
            expected = {
                "total": [[total] for total in expected_totals],
                "count": expected_counts,
                "twice": np.concatenate([values, values], axis=1).tolist(),
            }
            assert {name: array.tolist() for name, array in outputs.items()} == {n: expected[n] for n in wanted}
        ran = harness.engine.run_stats()
        assert sum(run.rows * run.num_runs for run in ran.runs) == sum(len(values) for _, _, values, _, _ in asked)
        assert max(run.rows for run in ran.runs) > 1
        assert ran.num_waits >= len(asked) and ran.wait_s > 0
        for session in totals:
            assert harness.close(session) == counts[session]


def test_what_is_left_out_of_an_initial_state_is_the_models(tmp_path: Path) -> None:
    limits = EngineLimits(session_slots=2, max_sessions=2, max_host_bytes=100)
    with running(open_tiny(tmp_path, write_accumulator(tmp_path)), limits) as harness:
        initial = {"count": np.array(7, np.int64)}
        harness.value(harness.submit(OpenSession(harness.new_id(), 1, initial)))
        outputs = tensors(harness, step(harness, 1, np.array([[1]], np.float32))).tensors
        assert outputs["count"].tolist() == [8] and outputs["total"].tolist() == [[INITIAL_TOTAL + 1]]
        harness.close(1)


def test_what_does_not_fit_is_refused_before_it_meets_others(tmp_path: Path) -> None:
    good, scale = np.ones((1, 2), np.float32), {"scale": np.array(1, np.float32)}
    with running(open_tiny(tmp_path, write_accumulator(tmp_path))) as harness:
        harness.open(1)
        for inputs, shared, outputs in (
            ({"values": good.astype(np.float64)}, scale, ALL),
            ({"values": good[0]}, scale, ALL),
            ({"values": np.ones((2, 2), np.float32)}, scale, ALL),
            ({"values": good, "more": good}, scale, ALL),
            ({}, scale, ALL),
            ({"values": good}, {}, ALL),
            ({"values": good}, {"scale": np.ones(1, np.float32)}, ALL),
            ({"values": good}, scale, ("total_pool_out",)),
        ):
            request = harness.submit(StepTensors(harness.new_id(), 1, inputs, shared, 1, outputs))
            assert isinstance(harness.error(request), InvalidInput)
        request = harness.submit(StepSession(harness.new_id(), 1, {"tokens": [1]}, 1, 0))
        assert isinstance(harness.error(request), WrongTask)
        request = harness.submit(RunTensors(harness.new_id(), {"values": good}, scale, 1, ALL))
        assert isinstance(harness.error(request), WrongTask)
        assert tensors(harness, step(harness, 1, good)).tensors["count"].tolist() == [1]
        harness.submit(CloseSession(harness.new_id(), 1))


def test_rows_of_several_lengths_share_a_run(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with running(open_tiny(tmp_path, write_padded(tmp_path))) as harness:
        asked = []
        for _ in range(60):
            rows, length = int(generator.integers(1, 4)), int(generator.integers(1, 9))
            x = generator.integers(0, 9, (rows, length, 2)).astype(np.float32)
            lengths = generator.integers(1, length + 1, rows)
            request = RunTensors(harness.new_id(), {"x": x, "lengths": lengths}, {}, rows, ("sums", "doubled"))
            asked.append((harness.submit(request), x, lengths))
        for one, x, lengths in asked:
            outputs = tensors(harness, one).tensors
            assert outputs["doubled"].tolist() == (2 * x).tolist()
            sums = [row[:length].sum(axis=0).tolist() for row, length in zip(x, lengths, strict=True)]
            assert outputs["sums"].tolist() == sums
        assert any(run.rows > 3 for run in harness.engine.run_stats().runs)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
     "float16", "float32", "float64", "bfloat16", "string"],
)  # fmt: skip
def test_every_type_of_tensor_passes(tmp_path: Path, dtype: DType) -> None:
    runner = open_tiny(tmp_path, write_identity(tmp_path, dtype))
    assert measure(runner).max_sequences >= 1
    assert probe_invariance(runner, (1, 2, 5), budget_s=0.01) == ()
    values = [[b"", "wörd".encode()], [b"a\0b", b"c"]] if dtype == "string" else [[0, 1], [1, 0]]
    x = np.array(values, dtype=storage(dtype))
    with running(runner) as harness:
        for rows in (x, x[:, :0]):
            request = harness.submit(RunTensors(harness.new_id(), {"x": rows}, {}, 2, ("y",)))
            y = tensors(harness, request).tensors["y"]
            assert (y.dtype, y.shape, y.tolist()) == (rows.dtype, rows.shape, rows.tolist())


def test_nothing_is_run_without_elements_unless_the_model_was_seen_to_take_it(tmp_path: Path) -> None:
    manifest = write_identity(tmp_path, "float32")
    assert manifest.imported is not None
    careful = manifest.model_copy(update={"imported": manifest.imported.model_copy(update={"zero_sizes": False})})
    with running(open_tiny(tmp_path, careful)) as harness:
        request = RunTensors(harness.new_id(), {"x": np.zeros((1, 0), np.float32)}, {}, 1, ("y",))
        assert isinstance(harness.error(harness.submit(request)), InvalidInput)


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    with running(open_tiny(tmp_path, write_identity(tmp_path, "string"))) as harness:
        x = np.array([[b"\xff"]], dtype=object)
        assert isinstance(
            harness.error(harness.submit(RunTensors(harness.new_id(), {"x": x}, {}, 1, ("y",)))), InvalidInput
        )


def test_a_stateful_model_is_measured_and_proved(tmp_path: Path) -> None:
    runner = open_tiny(tmp_path, write_accumulator(tmp_path))
    assert runner.read_rows([0])["total"].tolist() == [[INITIAL_TOTAL]]
    assert measure(runner).step_seconds
    assert probe_invariance(runner, (1, 2, 8), budget_s=0.01) == ()
    assert runner.read_rows([0])["total"].tolist() == [[INITIAL_TOTAL]]


def test_rows_of_unequal_sizes_do_not_share_a_run(tmp_path: Path) -> None:
    with running(open_tiny(tmp_path, write_identity(tmp_path, "int32"))) as harness:
        given = [np.full((1, 1 + i % 3), i, np.int32) for i in range(60)]
        asked = [harness.submit(RunTensors(harness.new_id(), {"x": x}, {}, 1, ("y",))) for x in given]
        for one, x in zip(asked, given, strict=True):
            assert tensors(harness, one).tensors["y"].tolist() == x.tolist()
        assert any(run.rows > 1 for run in harness.engine.run_stats().runs)


def test_no_limits_run_more_rows_than_the_graph_takes(tmp_path: Path) -> None:
    manifest = write_accumulator(tmp_path)
    assert manifest.imported is not None
    alone = manifest.model_copy(update={"imported": manifest.imported.model_copy(update={"max_rows": 1})})
    limits = EngineLimits(session_slots=20, max_sessions=20, batch=ScheduleLimits(max_rows=64))
    with running(open_tiny(tmp_path, alone), limits, num_runners=2) as harness:
        for session in range(1, 11):
            harness.open(session)
        asked = [step(harness, 1 + i % 10, np.ones((1, 1), np.float32)) for i in range(100)]
        for request in asked:
            tensors(harness, request)
        assert {run.rows for run in harness.engine.run_stats().runs} == {1}
        for session in range(1, 11):
            assert harness.close(session) == 10


@pytest.mark.parametrize("num_runners", [1, 2])
def test_only_who_breaks_a_run_is_told_so(tmp_path: Path, num_runners: int) -> None:
    """The others take each step once, though a failed run may have written some of their states already."""
    generator = random.Random(num_runners)
    runner = open_tiny(tmp_path, write_lookup(tmp_path))
    limits = EngineLimits(session_slots=40, max_sessions=40, batch=ScheduleLimits(max_rows=32))
    with running(runner, limits, num_runners=num_runners) as harness:
        totals, asked, broken = dict.fromkeys(range(1, 33), 0), [], set()
        for session in totals:
            harness.open(session)
        for turn in range(20):
            for session in totals:
                if session in broken:
                    continue
                index = LOOKUP + 5 if generator.random() < 0.01 else generator.randrange(LOOKUP)
                inputs = {"index": np.array([index])}
                request = harness.submit(StepTensors(harness.new_id(), session, inputs, {}, 1, ("seen", "total")))
                if index >= LOOKUP:
                    broken.add(session)
                totals[session] += index
                asked.append((request, index, turn + 1, totals[session]))
        for request, index, seen, total in asked:
            if index >= LOOKUP:
                assert isinstance(harness.error(request), InvalidInput)
            else:
                outputs = tensors(harness, request).tensors
                assert (outputs["seen"].item(), outputs["total"].item()) == (seen, total)
        assert broken
        assert {ended.session for ended in harness.ended} == broken
        for session in totals.keys() - broken:
            assert harness.close(session) == 20


def test_a_run_that_does_not_end_is_ended(tmp_path: Path) -> None:
    limits = EngineLimits(session_slots=0, max_sessions=0, max_run_s=0.2)
    with running(open_tiny(tmp_path, write_endless(tmp_path)), limits) as harness:
        x = np.ones((1, 1), np.float32)

        def run(trips: int) -> RequestId:
            shared = {"trips": np.array(trips)}
            return harness.submit(RunTensors(harness.new_id(), {"x": x}, shared, 1, ("y",)))

        for _ in range(2):
            error = harness.error(run(2**50))
            assert isinstance(error, InvalidInput) and "with which a run ends within 0.2 s" in str(error)
        assert tensors(harness, run(3)).tensors["y"].tolist() == [[1.0]]
        assert harness.engine._run_s["run"] < 0.2  # else whoever has less time than that would be refused


@pytest.mark.slow
def test_who_shares_a_run_with_a_step_that_does_not_end_is_answered(tmp_path: Path) -> None:
    runner = ScriptedRunner(open_tiny(tmp_path, write_patient(tmp_path)))
    gate = Gate()
    runner.before = lambda *_: gate.stop()
    limits = EngineLimits(session_slots=20, max_sessions=20, max_run_s=1.5)
    with running(runner, limits) as harness:

        def step(session: int, turns: int) -> RequestId:
            inputs = {"turns": np.array([turns])}
            return harness.submit(StepTensors(harness.new_id(), session, inputs, {}, 1, ("seen", "total")))

        for session in range(1, 8):
            harness.open(session)
        first = [step(1, 1)]
        gate.wait_inside()
        first += [step(session, session) for session in range(2, 8)]
        gate.let_go()
        gate.wait_inside()  # all but the first share this run
        second = [step(session, 2**50 if session == 5 else 1) for session in range(1, 8)]
        gate.let_go()
        gate.wait_inside()
        gate.open()
        for session, request in enumerate(first, start=1):
            assert tensors(harness, request).tensors["total"].tolist() == [[session]]
        for session, request in enumerate(second, start=1):
            if session == 5:
                assert isinstance(harness.error(request), InvalidInput)
                continue
            outputs = tensors(harness, request).tensors
            assert (outputs["seen"].item(), outputs["total"].item()) == (2, session + 1)
        assert [ended.session for ended in harness.ended] == [5]
        assert ("step", 7) in runner.calls
        assert harness.engine._run_s["step"] < 0.2 * limits.max_run_s
        for session in (1, 2, 3, 4, 6, 7):
            assert harness.close(session) == 2


def test_who_is_run_beside_slow_steps_is_answered_and_goes_on_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last runs of the slow one take until the others have taken another step in the other lane."""
    runner = ScriptedRunner(open_tiny(tmp_path, write_patient(tmp_path)))
    gate, others = Gate(), threading.Event()
    runner.before = lambda *_: gate.stop()

    def slowly(runs: TensorRuns, batch: Any, slow: Sequence[range], limit_s: float) -> list[Part]:
        assert others.wait(TIMEOUT_S)
        return [Part(batch.works(piece), InvalidInput("inputs", "less", "more")) for piece in slow]

    monkeypatch.setattr(TensorRuns, "_slowly", slowly)
    limits = EngineLimits(session_slots=20, max_sessions=20)
    with running(runner, limits, num_runners=2) as harness:

        def step(session: int, turns: int) -> RequestId:
            inputs = {"turns": np.array([turns])}
            return harness.submit(StepTensors(harness.new_id(), session, inputs, {}, 1, ("seen", "total")))

        for session in range(1, 6):
            harness.open(session)
        held = [step(1, 1)]
        gate.wait_inside()
        held.append(step(2, 1))
        gate.wait_inside()  # both lanes are taken: what comes now shares a run
        runs = harness.engine._runs
        assert isinstance(runs, TensorRuns)
        runs._patience.beware()
        together = [step(session, 2**50 if session == 4 else 1) for session in (3, 4, 5)]
        gate.open()
        gate.let_go()
        for request in (*held, together[0], together[2]):
            assert tensors(harness, request).tensors["total"].tolist() == [[1]]
        for session in (1, 2, 3, 5):
            assert tensors(harness, step(session, 2)).tensors["total"].tolist() == [[3]]
        assert ("step", 3) in runner.calls
        assert harness.engine._inbox._inside[2] == 0  # nobody waits
        others.set()
        assert isinstance(harness.error(together[1]), InvalidInput)
        assert [ended.session for ended in harness.ended] == [4]
        for session in (1, 2, 3, 5):
            assert harness.close(session) == 2


def test_closing_ends_a_run_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_RUN_ON_S", 0.1)
    limits = EngineLimits(session_slots=0, max_sessions=0)
    with running(open_tiny(tmp_path, write_endless(tmp_path)), limits) as harness:
        shared = {"trips": np.array(2**50)}
        request = RunTensors(harness.new_id(), {"x": np.ones((1, 1), np.float32)}, shared, 1, ("y",))
        harness.engine.submit(request)
        while harness.engine.stats().waiting != 1:  # it has been taken
            pass
        harness.engine.close()
        assert isinstance(harness.error(request.id), InternalFailure | ShuttingDown)


def test_what_has_begun_is_given_up_where_its_session_is_closed(tmp_path: Path) -> None:
    hand = ByHand(open_tiny(tmp_path, write_accumulator(tmp_path)), EngineLimits(4, 4))
    submit, new_id = hand.harness.submit, hand.harness.new_id
    submit(OpenSession(new_id(), 1))
    values, shared = np.ones((9, 1), np.float32), {"scale": np.array(1, np.float32)}
    long = submit(StepTensors(new_id(), 1, {"values": values}, shared, 9, ("total",)))
    hand.finish(hand.begin())
    close = submit(CloseSession(new_id(), 1))
    hand.engine.cancel(long)
    assert len(hand.run_all()) == 0
    assert hand.harness.events[long] == [Cancelled(long)]
    assert hand.harness.num_steps(close) == 0  # of a step that was given up none counts
    hand.engine.close()
    hand.engine.check_integrity()
