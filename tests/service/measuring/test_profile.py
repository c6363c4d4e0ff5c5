"""Profiles of a runner whose costs are given, on a clock that it moves itself; and of real graphs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from export.bundle import load_manifest
from export.manifest import GraphKind, GraphSpec, Manifest, StateSpec, TensorSpec
from service.engine.schedule import ScheduleLimits
from service.measuring.host import FOLDER
from service.measuring.profile import HostProfile, load_or_measure, measure
from service.runtime.opening import open_runner
from service.runtime.providers import CPU
from service.runtime.runner import RunnerConfig
from tests.service import tiny_models as tiny
from tests.service.bundles import publish_transducer

Cost = Callable[[GraphKind, int, int], float]  # seconds by graph, rows and time steps
STATE = StateSpec(name="h", dtype="float32", shape=(1,), pool_input="h_pool", pool_output="h_pool_out")
SLOTS = ("read_slots", ("B",)), ("write_slots", ("B",))


def spec(kind: GraphKind, *inputs: tuple[str, tuple[str, ...]]) -> GraphSpec:
    given = [TensorSpec(name=name, dtype="int64", shape=shape) for name, shape in inputs]
    pools = [TensorSpec(name="h_pool", dtype="float32", shape=("N", 1))] if kind != "sequence" else []
    outputs = [TensorSpec(name=name, dtype="float32", shape=("B", 7)) for name in ("log_probs", "top_log_probs")]
    return GraphSpec(file=f"{kind}.onnx", inputs=(*given, *pools), outputs=tuple(outputs))


SPECS: dict[GraphKind, GraphSpec] = {
    "step": spec("step", ("tokens", ("B",)), *SLOTS),
    "chunk": spec("chunk", ("tokens", ("B", "T")), *SLOTS),
    "sequence": spec("sequence", ("tokens", ("B", "T")), ("lengths", ("B",))),
}


class ClockedRunner:
    """Runs nothing, but moves its clock; notes what it was asked to run."""

    provider = CPU

    def __init__(self, cost: Cost, *kinds: GraphKind) -> None:
        self.manifest = Manifest(
            name="clocked",
            version=1,
            task="language_model",
            precision="fp32",
            graphs={kind: SPECS[kind] for kind in kinds},
            states=(STATE,),
            tokenizers={},
            created="",
            files={},
        )
        self._cost = cost
        self.now = 0.0
        self.runs: list[tuple[GraphKind, int, int]] = []
        self.inputs: list[Mapping[str, npt.NDArray[Any]]] = []
        self.outputs: set[str] = set()

    def run(
        self, kind: GraphKind, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], lane: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        tokens = inputs["tokens"]
        rows, length = tokens.shape if tokens.ndim == 2 else (len(tokens), 1)
        self.runs.append((kind, rows, length))
        self.inputs.append(inputs)
        self.outputs.update(outputs)
        self.now += self._cost(kind, rows, length)
        return {}

    def measure(self) -> HostProfile:
        return measure(self, clock=lambda: self.now)


def linear(run_s: float, row_s: float) -> Cost:
    return lambda kind, rows, length: run_s + row_s * rows * length


@pytest.mark.parametrize(("constant", "knee"), [(0.0, 64), (1.0, 64), (5.0, 128), (29.0, 256)])
def test_the_knee_is_the_smallest_batch_that_is_nearly_as_quick_a_row_as_the_best(constant: float, knee: int) -> None:
    """A row takes 1 + (constant + 3) / rows, 3 being what the engine spends on any run."""
    profile = ClockedRunner(linear(constant * 1e-4, 1e-4), "step").measure()
    assert profile.max_rows == knee
    assert profile.step_seconds[8] == pytest.approx((constant + 8) * 1e-4)


def test_the_sweep_ends_where_larger_batches_are_slower() -> None:
    def thrashing(kind: GraphKind, rows: int, length: int) -> float:
        return 1e-4 * (1 + rows) * (2 if rows > 32 else 1)

    runner = ClockedRunner(thrashing, "step")
    assert runner.measure().max_rows == 32
    assert max(rows for _, rows, _ in runner.runs) == 64


def test_what_disturbs_a_run_is_left_out() -> None:
    runs = count()

    def disturbed(kind: GraphKind, rows: int, length: int) -> float:
        return 1e-4 * rows + (1.0e-3 if next(runs) % 2 else 0.0)

    profile = ClockedRunner(disturbed, "step").measure()
    for rows in (1, 4, 32):
        assert profile.step_seconds[rows] == pytest.approx(rows * 1e-4)


def test_a_slow_model_is_measured_within_the_budget() -> None:
    runner = ClockedRunner(linear(0.2, 0.1), "step", "chunk", "sequence")
    profile = runner.measure()
    assert runner.now < 8.0
    assert profile.max_rows >= 1
    assert profile.step_seconds
    assert profile.time_step_seconds


def test_a_graph_that_is_quickest_in_small_batches_is_still_run_in_large_ones() -> None:
    """What the engine spends on every run outweighs a tenth of a row's cost."""

    def cost(kind: GraphKind, rows: int, length: int) -> float:
        return rows * (3.0e-5 if rows <= 16 else 3.3e-5)

    profile = ClockedRunner(cost, "step").measure()
    assert max(profile.step_seconds) == 256
    assert profile.max_rows == 128


def test_a_gpu_is_tried_with_more_rows() -> None:
    runner = ClockedRunner(linear(1e-3, 1e-7), "step")
    runner.provider = "CUDAExecutionProvider"
    profile = runner.measure()
    assert max(profile.step_seconds) == 4096
    assert profile.max_rows == 4096
    assert max(ClockedRunner(linear(1e-3, 1e-7), "step").measure().step_seconds) == 256


def test_chunks_are_kept_as_far_as_they_beat_as_many_steps() -> None:
    def cost(kind: GraphKind, rows: int, length: int) -> float:
        each = 1e-3 + 1e-4 * rows
        if kind == "step":
            return each
        return length * each * (0.5 if length == 2 else 0.95 if length == 4 else 0.99)

    profile = ClockedRunner(cost, "step", "chunk").measure()
    assert profile.max_chunk == 4
    assert sorted(profile.chunk_seconds) == [2, 4]
    assert profile.chunk_seconds[4][16] == pytest.approx(4 * 2.6e-3 * 0.95)
    assert ClockedRunner(cost, "step").measure().max_chunk == 1


def test_whole_sequences_are_bounded_by_the_time_they_keep_steps_waiting() -> None:
    profile = ClockedRunner(linear(0.0, 1e-4), "sequence").measure()
    assert profile.max_sequences == 2  # two sequences of 20 take 4 ms, ten times what the engine adds
    assert profile.max_padded_tokens == pytest.approx(400, abs=1)  # in 40 ms
    assert profile.time_step_seconds[4] == pytest.approx(4e-4)
    assert profile.step_seconds == {}
    profile = ClockedRunner(linear(2e-3, 1e-4), "sequence").measure()  # a row more a time step of 20
    assert profile.max_sequences == 16
    assert profile.max_padded_tokens == pytest.approx(400 * 16 / 17, abs=1)


def test_only_scratch_is_written_and_states_and_whole_vocabularies_are_not_copied_out() -> None:
    runner = ClockedRunner(linear(1e-4, 1e-5), "step", "chunk", "sequence")
    runner.measure()
    stepped = [inputs for inputs in runner.inputs if "write_slots" in inputs]
    assert stepped
    for inputs in stepped:
        assert not inputs["read_slots"].any()
        assert (inputs["write_slots"] == 1).all()
        assert inputs["tokens"].max() < 4  # ids that every vocabulary has
    assert runner.outputs == {"top_log_probs"}


def test_limits_take_what_was_measured() -> None:
    profile = HostProfile(
        host="", measured_at="", max_rows=8, max_chunk=4, max_sequences=3, max_padded_tokens=77,
        step_seconds={1: 1.0, 8: 2.0}, chunk_seconds={4: {1: 3.0}}, time_step_seconds={1: 5.0},
    )  # fmt: skip
    limits = profile.limits(ScheduleLimits(max_rows=100, max_padded_cells=1234, min_rows=2))
    assert (limits.max_rows, limits.max_chunk, limits.max_chunk_tokens, limits.max_sequences) == (8, 4, 16, 3)
    assert (limits.max_padded_tokens, limits.max_padded_cells, limits.min_rows) == (77, 1234, 2)
    assert [limits.costs.steps[1](8), limits.costs.steps[4](2), limits.costs.time_step(2)] == [2.0, 6.0, 10.0]
    plain = HostProfile(host="", measured_at="").limits(ScheduleLimits())
    assert plain.costs.steps[1](64) == ScheduleLimits().costs.steps[1](64)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return publish_transducer(tmp_path)


CONFIG = RunnerConfig(provider="cpu", num_slots=16, num_memory_rows=64)


def test_a_profile_is_kept_in_the_bundle_which_stays_one(bundle: Path) -> None:
    runner = open_runner(bundle, load_manifest(bundle), CONFIG)
    profile = load_or_measure(bundle, runner, CONFIG)
    assert profile.step_seconds and profile.time_step_seconds
    load_manifest(bundle)
    [path] = (bundle / FOLDER).iterdir()
    changed = profile.model_copy(update={"max_rows": 7})
    path.write_text(changed.model_dump_json())
    assert load_or_measure(bundle, runner, CONFIG) == changed  # read, not measured


def test_other_hosts_and_other_graphs_have_profiles_of_their_own(bundle: Path) -> None:
    runner = open_runner(bundle, load_manifest(bundle), CONFIG)
    load_or_measure(bundle, runner, CONFIG)
    load_or_measure(bundle, runner, replace(CONFIG, threads=2))
    assert len(list((bundle / FOLDER).iterdir())) == 2
    entry = runner.manifest.files["step.onnx"]
    files = runner.manifest.files | {"step.onnx": entry.model_copy(update={"sha256": "0" * 64})}
    runner.manifest = runner.manifest.model_copy(update={"files": files})
    load_or_measure(bundle, runner, CONFIG)
    assert len(list((bundle / FOLDER).iterdir())) == 3


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema_version": 2}', b"\xff\xfe"])
def test_what_is_no_profile_is_measured_again(bundle: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    runner = open_runner(bundle, load_manifest(bundle), CONFIG)
    load_or_measure(bundle, runner, CONFIG)
    [path] = (bundle / FOLDER).iterdir()
    path.write_bytes(content)
    profile = load_or_measure(bundle, runner, CONFIG)
    assert "expected a host profile, got" in caplog.text
    assert HostProfile.model_validate_json(path.read_bytes()) == profile


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_rows": 0},
        {"step_seconds": {"1": -1.0}},
        {"step_seconds": {"0": 1.0}},
        {"step_seconds": {"1": 1.0}, "chunk_seconds": {"3": {"1": 1.0}}},
        {"step_seconds": {"1": 1.0}, "chunk_seconds": {"2": {}}},
    ],
)
def test_costs_that_cannot_be_planned_with_are_no_profile(wrong: dict[str, object]) -> None:
    good = {"host": "", "measured_at": ""}
    assert HostProfile.model_validate(good).max_rows >= 1
    with pytest.raises(ValidationError):
        HostProfile.model_validate(good | wrong)


def test_a_folder_that_cannot_be_written_to_is_no_error(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    (bundle / FOLDER).write_text("a file where the folder would be")  # as root, permissions stop nobody
    runner = open_runner(bundle, load_manifest(bundle), CONFIG)
    with caplog.at_level(logging.INFO):
        assert load_or_measure(bundle, runner, CONFIG).max_rows >= 1
    assert "the host profile is not kept" in caplog.text


def test_graphs_with_attention_are_measured_and_only_scratch_is_written(tmp_path: Path) -> None:
    runner = open_runner(tmp_path, tiny.write_encoder_decoder(tmp_path, tiny.make_table()), CONFIG)
    profile = measure(runner)
    assert profile.step_seconds and profile.time_step_seconds
    for pool in ("hash_pool", "memory_pool"):
        rows = runner.read_pool(pool)
        assert not rows[0].any() and not rows[2:].any()
        assert np.isfinite(rows).all()


def test_a_tagger_without_steps_is_measured(tmp_path: Path) -> None:
    runner = open_runner(tmp_path, tiny.write_tagger(tmp_path, tiny.make_table()), CONFIG)
    profile = measure(runner)
    assert profile.time_step_seconds
    assert profile.max_chunk == 1
