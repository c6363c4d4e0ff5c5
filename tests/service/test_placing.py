"""Where a model runs that was measured, whatever the settings say."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import BundlePath, load_manifest
from export.manifest import ImportedSpec, Manifest
from service import placing, repository
from service.lifecycle import opening
from service.lifecycle.opening import Opener
from service.lifecycle.serving import Serving
from service.measuring.crossover import Crossover, Rate, host_of, keep
from service.placing import place
from service.repository import RefusedBundle, open_bundle
from service.runtime.errors import RunnerError
from service.runtime.runner import Runner, RunnerConfig
from service.settings import Settings
from tests.service.bundles import publish_transducer

AUTO = RunnerConfig("auto", num_slots=1026)
MANIFEST = Manifest(
    name="m", version=3, task="tensors", precision="fp32", graphs={}, tokenizers={}, created="", files={}
)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """The GPUs that the driver knows."""
    found = {0: "H100", 1: "L4"}
    monkeypatch.setattr(placing, "name_of_gpu", found.get)
    return found


def measure(folder: Path, manifest: Manifest = MANIFEST, gpu: str = "H100", config: RunnerConfig = AUTO) -> None:
    """The CPU is quicker up to 64 rows, the GPU with 1024."""
    series = {"cpu": {1: 90.0, 64: 100.0, 1024: 100.0}, "cuda": {1: 10.0, 64: 99.0, 1024: 1000.0}}
    rates = {on: {rows: Rate(runs_per_s=1, rows_per_s=rate) for rows, rate in s.items()} for on, s in series.items()}
    host = host_of(config, gpu)
    keep(folder, manifest, Crossover(host=host, measured_at="", graph="step", runners=1, **rates))


@pytest.mark.parametrize(
    ("num_slots", "max_batch_rows", "provider"),
    [
        (1026, 0, "auto"),  # 1024 rows can be ready
        (1025, 0, "cpu"),  # 1023 cannot do with what 1024 do
        (66, 0, "cpu"),
        (1026, 1023, "cpu"),
        (1026, 1024, "auto"),
        (66, 4096, "cpu"),
    ],
)
def test_the_cpu_is_chosen_where_it_does_more_with_the_rows_that_there_can_be(
    tmp_path: Path, gpus: dict[int, str], num_slots: int, max_batch_rows: int, provider: str
) -> None:
    measure(tmp_path)
    config = RunnerConfig("auto", threads=1, num_slots=num_slots)
    placed = place(tmp_path, MANIFEST, config, max_batch_rows)
    assert placed == RunnerConfig(provider, threads=1, num_slots=num_slots)  # type: ignore[arg-type]


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_who_insists_gets_what_is_insisted_on(tmp_path: Path, gpus: dict[int, str], provider: str) -> None:
    measure(tmp_path)
    config = RunnerConfig(provider, num_slots=66)  # type: ignore[arg-type]
    assert place(tmp_path, MANIFEST, config) is config


@pytest.mark.parametrize("change", [lambda: None, lambda: RunnerConfig("auto", 2, 66), lambda: "T4"])
def test_without_a_measurement_of_this_machine_and_config_nothing_changes(
    tmp_path: Path, gpus: dict[int, str], change: Callable[[], object]
) -> None:
    config = RunnerConfig("auto", num_slots=66)
    match change():
        case RunnerConfig() as other:
            measure(tmp_path, config=other)
        case str(gpu):
            measure(tmp_path, gpu=gpu)
    assert place(tmp_path, MANIFEST, config) is config


def test_the_gpu_that_counts_is_the_one_that_would_be_used(tmp_path: Path, gpus: dict[int, str]) -> None:
    measure(tmp_path, gpu="L4")
    on_second = RunnerConfig("auto", num_slots=66, device_id=1)
    assert place(tmp_path, MANIFEST, on_second).provider == "cpu"
    assert place(tmp_path, MANIFEST, RunnerConfig("auto", num_slots=66)).provider == "auto"


def test_without_a_gpu_there_is_nothing_to_choose(tmp_path: Path, gpus: dict[int, str]) -> None:
    measure(tmp_path)
    gpus.clear()
    config = RunnerConfig("auto", num_slots=66)
    assert place(tmp_path, MANIFEST, config) is config


def test_the_log_says_what_was_measured(tmp_path: Path, gpus: dict[int, str], caplog: pytest.LogCaptureFixture) -> None:
    measure(tmp_path)
    with caplog.at_level(logging.INFO):
        place(tmp_path, MANIFEST, AUTO, 64)
        place(tmp_path, MANIFEST, AUTO)
    assert caplog.messages == [
        "model m version 3: by measurement 100 rows/s on the CPU and 99 on H100: runs on the CPU",
        "model m version 3: by measurement 100 rows/s on the CPU and 1000 on H100: runs on the GPU",
    ]


def test_a_bundle_is_opened_where_it_was_placed_unless_several_gpus_are_named(
    tmp_path: Path, gpus: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish_transducer(tmp_path)
    manifest = load_manifest(folder)
    measure(folder, manifest)
    asked: list[str] = []

    def refuse(folder: Path, manifest: Manifest, config: RunnerConfig) -> Runner:
        asked.append(config.provider)
        raise RunnerError("asked for that alone")

    monkeypatch.setattr(repository, "open_runner", refuse)
    path = BundlePath(manifest.name, manifest.version, folder)
    for others, max_batch_rows in (((), 64), ((), 0), ((AUTO,), 64)):
        assert isinstance(open_bundle(path, AUTO, None, others, max_batch_rows), RefusedBundle)
    assert asked == ["cpu", "auto", "auto"]


async def test_the_rows_that_the_settings_allow_reach_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[object] = []

    def refuse(path: BundlePath, *how: object) -> RefusedBundle:
        allowed.append(how[-1])
        return RefusedBundle(path.name, path.version, "bundle", "asked for that alone")

    monkeypatch.setattr(opening, "open_bundle", refuse)
    path = BundlePath("m", 1, tmp_path)
    await Opener(AUTO, max_batch_rows=7).open(path)
    serving = Serving(Settings(repository=tmp_path, max_batch_rows=11), lambda name: None)
    await serving.update("m", [path], keep_gone=False, retry=True)
    await serving.close()
    assert allowed == [7, 11]


@pytest.mark.parametrize(("max_rows", "provider"), [(1, "cpu"), (None, "auto")])
def test_a_model_that_takes_one_row_at_a_time_is_measured_with_it(
    tmp_path: Path, gpus: dict[int, str], max_rows: int | None, provider: str
) -> None:
    """One row says nothing of a thousand, unless no more than one is ever run."""
    imported = ImportedSpec(original="m.onnx", max_rows=max_rows)
    manifest = MANIFEST.model_copy(update={"task": "tensors", "imported": imported})
    rate = {1: Rate(runs_per_s=1, rows_per_s=1)}
    host = host_of(AUTO, "H100")
    keep(tmp_path, manifest, Crossover(host=host, measured_at="", graph="step", runners=1, cpu=rate, cuda=rate))
    assert place(tmp_path, manifest, AUTO).provider == provider
