"""The choice among the graphs of a step: on a clock of its own, and of real graphs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench.untrained import publish_untrained
from export.bundle import BundlePath, load_manifest
from export.manifest import (
    DecodingDefaults,
    GraphKind,
    GraphSpec,
    ImportedSpec,
    Manifest,
    StateSpec,
    TensorSpec,
    Variant,
    with_variant,
)
from models.config import LanguageModelConfig
from models.symbols import SPECIALS
from service.measuring.host import FOLDER
from service.measuring.variant import Choice, measure, open_quickest
from service.repository import ServedModel, open_bundle
from service.runtime.errors import ProviderUnavailable
from service.runtime.opening import open_runner
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import RunnerConfig

Seconds = Callable[[str, int], float]  # of a step, by file and rows
INPUTS = [TensorSpec(name=name, dtype="int64", shape=("B",)) for name in ("tokens", "read_slots", "write_slots")]
STATE = StateSpec(name="h", dtype="float32", shape=(1,), pool_input="h_pool", pool_output="h_pool_out")
OUTPUT = TensorSpec(name="top_tokens", dtype="int64", shape=("B", 1))


def manifest_of(*names: Variant) -> Manifest:
    files: dict[Variant, str] = {name: f"step.{name}.onnx" for name in names}
    step = GraphSpec(file="step.onnx", inputs=tuple(INPUTS), outputs=(OUTPUT,), variants=files)
    return Manifest(
        name="m",
        version=1,
        task="language_model",
        precision="fp32",
        graphs={"step": step},
        states=(STATE,),
        tokenizers={},
        created="",
        files={},
    )


class Host:
    """Opens runners that run nothing and move one clock; notes which were opened, and that all trials were closed."""

    def __init__(self, seconds: Seconds, provider: str = CPU, broken: str = "", fallen_back: str = "") -> None:
        self.seconds, self.provider, self.broken, self.fallen_back = seconds, provider, broken, fallen_back
        self.now = 0.0
        self.opened: list[str] = []
        self.trials: list[str] = []
        self.rows: set[int] = set()
        self.open_trials = 0

    def open(self, manifest: Manifest) -> "FakeRunner":
        self._expect_whole(manifest)
        self.opened.append(manifest.graphs["step"].file)
        return FakeRunner(self, manifest, trial=False)

    def open_trial(self, manifest: Manifest) -> "FakeRunner":
        self._expect_whole(manifest)
        self.trials.append(manifest.graphs["step"].file)
        self.open_trials += 1
        return FakeRunner(self, manifest, trial=True)

    def _expect_whole(self, manifest: Manifest) -> None:
        if manifest.graphs["step"].file == self.broken:
            raise RuntimeError("no kernel for Gemm\nwith more lines")

    def measure(self, manifest: Manifest) -> Choice:
        choice = measure(manifest, "here", 1, self.open_trial, clock=lambda: self.now)
        assert self.open_trials == 0
        return choice

    def open_quickest(self, folder: Path, manifest: Manifest, host: str = "here") -> "FakeRunner":
        return open_quickest(folder, manifest, host, 1, self.open, self.open_trial, lambda: self.now)


class FakeRunner:
    def __init__(self, host: Host, manifest: Manifest, trial: bool) -> None:
        self.manifest = manifest
        self.provider = CPU if manifest.graphs["step"].file == host.fallen_back else host.provider
        self._host, self._trial = host, trial
        self.closed = False

    def run(
        self, kind: GraphKind, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], lane: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        assert kind == "step" and set(inputs) == {"tokens", "read_slots", "write_slots"}
        assert set(inputs["write_slots"].tolist()) == {1}, "scratch alone is written"
        rows = len(inputs["tokens"])
        self._host.rows.add(rows)
        self._host.now += self._host.seconds(self.manifest.graphs["step"].file, rows)
        return {}

    def close(self) -> None:
        self.closed = True
        self._host.open_trials -= self._trial


def by_file(**seconds: float) -> Seconds:
    files = {"node": "step.onnx", "primitive": "step.primitive.onnx", "folded": "step.folded.onnx"}
    costs = {files[name]: value for name, value in seconds.items()}
    return lambda file, rows: costs[file]


@pytest.mark.parametrize(
    ("seconds", "best"), [({"node": 2e-3, "primitive": 1e-3, "folded": 3e-3}, "primitive"), ({"node": 1e-3}, None)]
)
def test_every_candidate_is_timed_and_closed(seconds: dict[str, float], best: Variant | None) -> None:
    host = Host(by_file(**{"primitive": 1e-2, "folded": 1e-2, **seconds}))
    choice = host.measure(manifest_of("primitive", "folded"))
    assert host.trials == ["step.onnx", "step.primitive.onnx", "step.folded.onnx"]
    assert (choice.variant, choice.provider, choice.host) == (best, CPU, "here")
    assert choice.step_seconds["node"] == {rows: pytest.approx(seconds["node"]) for rows in (1, 4, 16, 64, 256)}


def test_on_a_gpu_large_batches_are_timed_too() -> None:
    host = Host(by_file(node=1e-4, primitive=1e-5), provider=CUDA)
    host.measure(manifest_of("primitive"))
    assert host.rows == {1, 4, 16, 64, 256, 1024, 4096}


def test_a_slow_model_is_measured_as_far_as_the_budget_goes() -> None:
    host = Host(lambda file, rows: 0.1 * rows)
    choice = host.measure(manifest_of("primitive"))
    assert 1 in choice.step_seconds["node"] and 256 not in choice.step_seconds["node"]
    assert host.now < 10


def test_a_variant_that_cannot_be_run_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(by_file(node=2.0e-3, folded=1e-3), broken="step.primitive.onnx")
    choice = host.measure(manifest_of("primitive", "folded"))
    assert choice.variant == "folded" and set(choice.step_seconds) == {"node", "folded"}
    assert "model m version 1: variant primitive is left out: no kernel for Gemm" in caplog.text


def test_a_graph_that_cannot_be_run_as_it_is_may_still_have_a_variant(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(by_file(primitive=1e-3), broken="step.onnx")
    assert host.measure(manifest_of("primitive")).variant == "primitive"
    assert "the graph as it is is left out: no kernel for Gemm" in caplog.text
    with pytest.raises(ValueError, match="the first that went wrong"):
        measure(manifest_of("primitive"), "here", 1, _refuse)


def test_where_cuda_does_not_work_no_variant_is_tried_and_that_alone_is_said(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []

    def without(manifest: Manifest) -> FakeRunner:
        tried.append(manifest.graphs["step"].file)
        raise ProviderUnavailable("a working CUDAExecutionProvider", "no NVIDIA driver")

    with pytest.raises(ProviderUnavailable, match="no NVIDIA driver"):
        measure(manifest_of("primitive", "folded"), "here", 1, without)
    assert tried == ["step.onnx"]
    assert not caplog.messages


@pytest.mark.parametrize(("provider", "best"), [(CPU, None), (CUDA, "primitive")])
def test_an_import_is_run_as_it_came_on_the_cpu(provider: str, best: Variant | None) -> None:
    manifest = manifest_of("primitive").model_copy(
        update={"task": "tensors", "imported": ImportedSpec(original="m.onnx")}
    )
    host = Host(by_file(node=2e-3, primitive=1e-3), provider=provider)
    assert host.measure(manifest).variant == best
    only = Host(by_file(primitive=1e-3), provider=provider, broken="step.onnx")
    assert only.measure(manifest).variant == "primitive"


@pytest.mark.parametrize(
    ("fallen_back", "best"), [("step.onnx", "primitive"), ("step.primitive.onnx", "folded"), ("", "primitive")]
)
def test_what_falls_back_to_the_cpu_is_not_compared_with_what_does_not(
    fallen_back: str, best: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the quickest there would be: a single row is quicker on the CPU."""
    seconds = {"step.onnx": 3e-3, "step.primitive.onnx": 1e-3, "step.folded.onnx": 2e-3, fallen_back: 1e-6}
    host = Host(lambda file, rows: seconds[file], provider=CUDA, fallen_back=fallen_back)
    choice = host.measure(manifest_of("primitive", "folded"))
    assert (choice.variant, choice.provider) == (best, CUDA)
    assert len(choice.step_seconds) == (2 if fallen_back else 3)
    left_out = f"is left out: it runs on {CPU}, others on {CUDA}"
    assert [left_out in message for message in caplog.messages] == ([True] if fallen_back else [])


def _refuse(manifest: Manifest) -> FakeRunner:
    raise ValueError(
        "the first that went wrong" if manifest.graphs["step"].file == "step.onnx" else "what came after it"
    )


def test_a_model_without_variants_is_opened_and_nothing_is_measured(tmp_path: Path) -> None:
    host = Host(by_file(node=1e-3))
    assert host.open_quickest(tmp_path, manifest_of()).manifest == manifest_of()
    assert (host.opened, host.trials, list(tmp_path.iterdir())) == (["step.onnx"], [], [])


def test_the_choice_is_kept_for_this_host_these_settings_and_this_provider(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    manifest = manifest_of("primitive")
    first, second = (Host(by_file(node=1.0, primitive=0.5)) for _ in range(2))
    for host in (first, second):
        runner = host.open_quickest(tmp_path, manifest)
        assert runner.manifest == with_variant(manifest, "primitive") and not runner.closed
        assert host.opened == ["step.primitive.onnx"]
    assert (len(first.trials), len(second.trials)) == (2, 0)
    assert caplog.messages == ["model m version 1: the quickest here is primitive"] * 2
    [path] = (tmp_path / FOLDER).iterdir()
    assert Choice.model_validate_json(path.read_bytes()).variant == "primitive"

    elsewhere = Host(by_file(node=0.5, primitive=1.0))
    assert elsewhere.open_quickest(tmp_path, manifest, "with other settings").manifest == manifest
    assert len(elsewhere.trials) == 2 and len(list((tmp_path / FOLDER).iterdir())) == 2

    on_gpu = Host(by_file(node=0.5, primitive=1.0), provider=CUDA)
    assert on_gpu.open_quickest(tmp_path, manifest).manifest == manifest
    assert on_gpu.opened == ["step.primitive.onnx", "step.onnx"] and len(on_gpu.trials) == 2
    assert Choice.model_validate_json(path.read_bytes()).provider == CUDA


def test_a_choice_that_cannot_be_opened_any_more_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = manifest_of("primitive", "folded")
    Host(by_file(node=1.0, primitive=0.4, folded=0.5)).open_quickest(tmp_path, manifest)
    [path] = (tmp_path / FOLDER).iterdir()
    for broken, best in (("step.primitive.onnx", "folded"), ("step.folded.onnx", None)):
        host = Host(by_file(node=1.0, primitive=1.0, folded=0.5), broken=broken)
        assert host.open_quickest(tmp_path, manifest).manifest == with_variant(manifest, best)  # type: ignore[arg-type]
        assert host.open_trials == 0 and Choice.model_validate_json(path.read_bytes()).variant == best
    assert "model m version 1: variant primitive is left out: no kernel for Gemm" in caplog.text


def test_where_cuda_does_not_work_a_choice_stays_as_it_is(tmp_path: Path) -> None:
    manifest = manifest_of("primitive")
    host = Host(by_file(node=1.0, primitive=0.5))
    host.open_quickest(tmp_path, manifest)

    def without(manifest: Manifest) -> FakeRunner:
        raise ProviderUnavailable("a working CUDAExecutionProvider", "no NVIDIA driver")

    with pytest.raises(ProviderUnavailable, match="no NVIDIA driver"):
        open_quickest(tmp_path, manifest, "here", 1, without, host.open_trial)
    assert len(host.trials) == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema_version": 2}', b"\xff\xfe"])
def test_what_is_no_choice_is_measured_again(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    host = Host(by_file(node=1.0, primitive=0.5))
    host.open_quickest(tmp_path, manifest_of("primitive"))
    [path] = (tmp_path / FOLDER).iterdir()
    path.write_bytes(content)
    assert host.open_quickest(tmp_path, manifest_of("primitive")).manifest.graphs["step"].file == "step.primitive.onnx"
    assert "expected a choice of a variant, got" in caplog.text and len(host.trials) == 4
    assert Choice.model_validate_json(path.read_bytes()).variant == "primitive"


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder would be")
    host = Host(by_file(node=1.0, primitive=0.5))
    with caplog.at_level(logging.INFO):
        host.open_quickest(tmp_path, manifest_of("primitive"))
    assert host.opened == ["step.primitive.onnx"] and "the choice of a variant is not kept" in caplog.text


@pytest.mark.slow
def test_a_bundle_with_variants_is_served_as_any_of_them_with_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SPECIALS, *(f"w{i}" for i in range(60))]
    folder = publish_untrained(
        tmp_path,
        "m",
        LanguageModelConfig(dim=16, hidden=24, layers=2),
        {"tokens": words},
        {"tokens": "whitespace"},
        "fp32",
        DecodingDefaults(top_k=4),
        for_cuda=True,
    )
    config, path = RunnerConfig(provider="cpu", num_slots=8), BundlePath("m", 1, folder)
    seen: list[object] = []
    served = open_bundle(path, config, seen.append)
    assert isinstance(served, ServedModel) and len(seen) == 4, "three were tried, one is served"
    kept = sorted(one.name for one in (folder / FOLDER).iterdir())
    assert [name.count(".variant") for name in kept].count(1) == 1 and len(kept) == 2
    again = open_bundle(path, config, seen.append)
    assert isinstance(again, ServedModel) and len(seen) == 5
    assert again.manifest == served.manifest and sorted(one.name for one in (folder / FOLDER).iterdir()) == kept

    feeds = {"tokens": np.array([5, 9]), "read_slots": np.array([0, 0]), "write_slots": np.array([2, 3])}
    answers, files = [], set()
    names: tuple[Variant | None, ...] = (None, "primitive", "folded")
    for name in names:
        runner = open_runner(folder, with_variant(load_manifest(folder), name), config)
        for reads in ([0, 0], [3, 2], [2, 3]):
            found = runner.run("step", {**feeds, "read_slots": np.array(reads)}, ("top_log_probs",))["top_log_probs"]
        answers.append(found.copy())
        files.add(runner.manifest.graphs["step"].file)
    np.testing.assert_allclose(answers[1:], [answers[0]] * 2, atol=1e-5, rtol=0)
    assert files == {"step.onnx", "step.primitive.onnx", "step.folded.onnx"}
