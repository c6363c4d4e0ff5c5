"""Steps that are captured and replayed, on a device that does so in simulation."""

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from export.manifest import Manifest
from service.runtime.device import capture
from service.runtime.device.layout import bucket
from service.runtime.providers import CPU
from service.runtime.runner import Runner, RunnerConfig
from tests.service import tensor_models as tensors
from tests.service import tiny_models as tiny
from tests.service.runtime.device.far import Far, FarBinding, FarMemory, FarSession
from tests.service.runtime.device.test_resident import TOP, batch, step_feeds

CONFIG = RunnerConfig("cpu", 1, 40, 64)
TABLE = tiny.make_table()


def write(folder: Path) -> Manifest:
    return tiny.write_language_model(folder, TABLE)


def expect_right_steps(runner: Runner) -> None:
    """A walk of three sessions that join and leave."""
    states: dict[int, int] = {}
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = rng.permutation([2, 3, 4, 5, 6])[: rng.integers(1, 6)].tolist()
        tokens = rng.integers(1, 7, len(rows)).tolist()
        inputs = {
            "tokens": np.array(tokens),
            "read_slots": np.array([row if row in states else 0 for row in rows]),
            "write_slots": np.array(rows),
        }
        got = runner.run("step", inputs, ("log_probs", *TOP))
        states |= {row: tiny.next_hash(states.get(row, 0), token) for row, token in zip(rows, tokens, strict=True)}
        np.testing.assert_array_equal(got["log_probs"], TABLE[[states[row] for row in rows]])
        rest = np.delete(runner.read_pool("hash_pool")[:, 0], 1)
        expected = np.zeros(len(rest) + 1)
        for row, state in states.items():
            expected[row] = state
        np.testing.assert_array_equal(rest, np.delete(expected, 1))


def test_each_size_is_captured_once_and_replayed_from_then_on(tmp_path: Path) -> None:
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    session = far.step()
    assert runner.captured == {"step": [1, 4]}  # to see whether it goes, and by the proof
    runner.warm_up()
    assert runner.captured == {"step": [1, 2, 4, 8, 16, 32]}
    assert (runner.uncaptured, runner.warnings) == ("", ())
    assert len(session.captured) == 6 and "-1" not in session.captured
    num_blocks = len(far.memory.blocks)
    session.runs.clear()
    runner.warm_up()
    assert session.runs == []
    expect_right_steps(runner)
    # A graph id for each size, replayed with what was bound for it.
    assert {graph_id for graph_id, _ in session.runs} == {"1", "2", "3", "4"}
    for graph_id, binding in session.runs:
        assert session.captured[graph_id][0] is binding
    assert len(far.memory.blocks) == num_blocks
    runner.run("step", batch(33), TOP)  # beyond
    assert session.runs[-1][0] == "-1"


def test_a_size_that_was_not_warmed_up_is_captured_before_it_is_run(tmp_path: Path) -> None:
    runner = Far().open(tmp_path, write(tmp_path), CONFIG)
    expect_right_steps(runner)
    assert runner.captured == {"step": [1, 2, 4, 8]}


def test_each_thread_captures_for_itself_and_no_step_is_taken_twice(tmp_path: Path) -> None:
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    runner.warm_up()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            expect_right_steps(runner)
        except BaseException as error:
            failed.append(error)

    for _ in range(2):  # one after the other, perhaps under the same number
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        runner.write_rows(range(2, 8), {"hash": np.zeros((6, 1), np.float32)})
    expect_right_steps(runner)
    assert failed == []


def test_lanes_but_the_first_replay_nothing(tmp_path: Path) -> None:
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    runner.run("step", batch(3), TOP, lane=1)
    assert far.step().runs[-1][0] == "-1"


def test_capturing_advances_nobody(tmp_path: Path) -> None:
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    states = np.arange(100, 138, dtype=np.float32)[:, None]
    runner.write_rows(range(2, 40), {"hash": states})
    far.step().runs.clear()
    runner.warm_up()
    assert len(far.step().runs) == 4  # 2, 8, 16, 32: each of them several times
    np.testing.assert_array_equal(runner.read_pool("hash_pool")[2:], states)
    assert runner.read_pool("hash_pool")[0] == 0
    # A size that is captured when it first runs: each row goes one step on.
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    runner.write_rows(range(2, 40), {"hash": states})
    runner.run("step", step_feeds([5, 6], [10, 11], [10, 11]), TOP)
    assert runner.captured == {"step": [1, 2, 4]}
    expected = states[:, 0].copy()
    expected[8:10] = [tiny.next_hash(108, 5), tiny.next_hash(109, 6)]
    np.testing.assert_array_equal(runner.read_pool("hash_pool")[2:, 0], expected)


def test_no_more_is_captured_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MOST_ROWS", 5)
    runner = Far().open(tmp_path, write(tmp_path), CONFIG)
    expect_right_steps(runner)
    runner.warm_up()
    assert runner.captured == {"step": [1, 2, 4]}


def test_captured_runs_are_never_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.device.resident._MOST_BOUND", 1)
    monkeypatch.setattr("service.runtime.device.resident._MOST_FILLED", 1)
    monkeypatch.setattr("service.runtime.device.staging._LEAST", 1)  # so that what is bound later lies elsewhere
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    runner.warm_up()
    far.step().runs.clear()
    for rows in (33, 38, 3, 33, 1, 38, 3):
        runner.run("step", batch(rows), TOP)
    assert len(far.step().runs) == 7
    assert [graph_id == "-1" for graph_id, _ in far.step().runs] == [True, True, False, True, False, True, False]


def test_an_imported_model_that_takes_one_row_is_captured_for_one(tmp_path: Path) -> None:
    manifest = tensors.write_lookup(tmp_path)
    assert manifest.imported is not None
    imported = manifest.imported.model_copy(update={"max_rows": 1})
    far = Far()
    runner = far.open(tmp_path, manifest.model_copy(update={"imported": imported}), CONFIG)
    assert runner.captured == {"step": [1]}
    slots = np.array([2])
    for turn in range(3):
        inputs = {"index": np.array([turn + 1]), "read_slots": slots if turn else np.array([0]), "write_slots": slots}
        got = runner.run("step", inputs, ("total", "seen"))
        assert (got["total"].tolist(), got["seen"].tolist()) == ([[(1, 3, 6)[turn]]], [[turn + 1]])
    assert far.step().runs[-1][0] == "1"


def test_a_graph_that_the_runtime_refuses_to_capture_is_opened_again_without(tmp_path: Path) -> None:
    far = Far()
    far.refuses_sessions = True
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    assert runner.captured == {}
    assert runner.warnings == (
        "graph step: runs without CUDA graphs: This session cannot use the graph capture feature",
    )
    assert runner.uncaptured in runner.warnings[0]
    assert not far.step().captures
    expect_right_steps(runner)


def test_a_capture_that_fails_leaves_a_model_that_works(tmp_path: Path) -> None:
    far = Far()
    far.refuses_to_capture = True
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    assert runner.captured == {}
    [warning] = runner.warnings
    assert warning == "graph step: runs without CUDA graphs: operation not permitted when stream is capturing"
    assert [session.captures for session in far.sessions] == [True, False]
    expect_right_steps(runner)
    assert {graph_id for graph_id, _ in far.step().runs} == {"-1"}


def test_replays_that_do_something_else_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., None] = FarSession.run_with_iobinding

    def run(self: FarSession, binding: FarBinding, options: Any = None) -> None:
        if options.get_run_config_entry("gpu_graph_id") not in self.captured:
            real(self, binding, options)  # and a replay does nothing

    monkeypatch.setattr(FarSession, "run_with_iobinding", run)
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    [warning] = runner.warnings
    assert warning.startswith("graph step: runs without CUDA graphs: graph step on CPU")
    assert "hash_pool: expected in place the same as on a copy" in warning
    assert runner.captured == {}
    expect_right_steps(runner)


def test_a_capture_that_fails_later_is_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    far.step().refuses_to_capture = True
    expect_right_steps(runner)
    assert runner.captured == {"step": [1, 4]}
    assert runner.uncaptured == "operation not permitted when stream is capturing"
    assert [record.message for record in caplog.records] == [
        "model tiny: no more steps are captured: operation not permitted when stream is capturing"
    ]


def test_a_capture_that_fails_in_the_proof_is_none(tmp_path: Path) -> None:
    """The second of two: what was captured before it must not be replayed without being proved."""

    class Failing(FarSession):
        def run_with_iobinding(self, binding: FarBinding, options: Any = None) -> None:
            if options.get_run_config_entry("gpu_graph_id") == "3":
                raise RuntimeError("operation not permitted")
            super().run_with_iobinding(binding, options)

    far = Far()
    with mock.patch("tests.service.runtime.device.far.FarSession", Failing):
        runner = far.open(tmp_path, write(tmp_path), CONFIG)
    [warning] = runner.warnings
    assert re.fullmatch("graph step: runs without CUDA graphs: .*, got operation not permitted", warning)
    assert runner.captured == {} and runner.uncaptured in warning
    expect_right_steps(runner)


@pytest.mark.parametrize(
    ("write", "config", "reason"),
    [
        (write, replace(CONFIG, cuda_graphs=False), "switched off"),
        (lambda folder: tiny.write_tagger(folder, TABLE), CONFIG, "there is no step graph"),
        (
            lambda folder: tiny.write_encoder_decoder(folder, TABLE),
            CONFIG,
            r"its tensors have free sizes besides their rows \(S\)",
        ),
        (tensors.write_accumulator, CONFIG, r"its tensors have free sizes besides their rows \(D, E\)"),
    ],
)
def test_what_cannot_be_captured_is_not_and_says_why(
    tmp_path: Path, write: Callable[[Path], Manifest], config: RunnerConfig, reason: str
) -> None:
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), config)
    assert (runner.captured, runner.warnings) == ({}, ())
    assert re.fullmatch(reason, runner.uncaptured)
    assert not any(session.captures for session in far.sessions)


def test_inputs_on_the_host_cannot_be_replayed(tmp_path: Path) -> None:
    far = Far()
    far.host_inputs = {"tokens"}
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    assert runner.captured == {}
    assert runner.uncaptured == "it has inputs that ONNX Runtime wants in host memory"
    expect_right_steps(runner)


def test_what_captured_runs_take_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    memory = FarMemory()
    memory.left = [1000, 900, 900, 600, 600, 500, 700, 900]
    runner = Far(memory).open(tmp_path, write(tmp_path), CONFIG)
    assert runner.memory_report()["captured runs"] == 400
    assert caplog.messages == [
        "model tiny: pools 0.0 MiB, inputs and outputs 0.1 MiB, page-locked host memory 0.1 MiB, "
        "captured runs 0.0 MiB; steps are captured"
    ]
    runner.warm_up()
    assert runner.memory_report()["captured runs"] == 500


def test_a_device_that_captures_nothing_is_asked_for_nothing(tmp_path: Path) -> None:
    far = Far()
    far.memory.captures = False
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    assert (runner.captured, runner.uncaptured) == ({}, "the device knows no such thing")
    assert {graph_id for graph_id, _ in far.step().runs} == {"-1"}
    assert Runner(tmp_path, runner.manifest, CONFIG, CPU).uncaptured == "it runs on the CPU"


def test_runs_that_give_memory_back_are_not_captured_either(tmp_path: Path) -> None:
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    runner.run("step", batch(33), TOP)
    with runner.shrinking():
        pass
    runner.run("step", batch(33), TOP)
    assert far.step().runs[-1][0] == "-1"


def test_a_run_that_was_ended_ends_no_other(tmp_path: Path) -> None:
    runner = Far().open(tmp_path, write(tmp_path), CONFIG)
    runner.run("step", step_feeds([4], [0], [30]), TOP)
    runner.end_run(0)
    runner.run("step", step_feeds([4] * 33, [0] * 33, [30] * 33), TOP)
    runner.write_rows([30], {"hash": np.zeros((1, 1), np.float32)})
    expect_right_steps(runner)


def test_probabilities_of_a_whole_vocabulary_are_bound_only_where_they_are_wanted(tmp_path: Path) -> None:
    table = tiny.make_table(vocabulary=2000)
    far = Far()
    runner = far.open(tmp_path, tiny.write_language_model(tmp_path, table), CONFIG)
    states, rows = [0, 0, 0], np.array([2, 3, 4])
    for turn, outputs in enumerate((TOP, ("log_probs", *TOP), TOP, ("log_probs",), (), TOP)):
        inputs = {"tokens": np.array([4, 5, 6]), "read_slots": rows if turn else 0 * rows, "write_slots": rows}
        got = runner.run("step", inputs, outputs)
        states = [tiny.next_hash(state, token) for state, token in zip(states, (4, 5, 6), strict=True)]
        assert got.keys() == set(outputs)
        if "log_probs" in outputs:
            np.testing.assert_array_equal(got["log_probs"], table[states])
        if "top_tokens" in outputs:
            np.testing.assert_array_equal(got["top_tokens"][:, 0], table[states].argmax(axis=1))
        graph_id, binding = far.step().runs[-1]
        assert (graph_id == "-1") == ("log_probs" in binding.addresses) == ("log_probs" in outputs)


def test_sizes_captured_are_those_that_batches_have() -> None:
    assert bucket(capture.MOST_ROWS) == capture.MOST_ROWS
