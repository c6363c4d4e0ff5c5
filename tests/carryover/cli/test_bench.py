"""`carryover bench`: which command is meant, and what `crossover` prints and keeps."""

import sys
from pathlib import Path
from typing import Any

import pytest

from carryover.cli.app import run
from export.bundle import load_manifest
from export.manifest import Manifest
from service import repository
from service.measuring import crossover
from service.measuring.crossover import Rate, host_of, load
from service.runtime import driver
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import RunnerConfig
from tests.service.bundles import publish_transducer


class SecondRunner:
    """The runner of a bundle, which passes for one on a GPU where that is asked for."""

    def __init__(self, real: Any, provider: str) -> None:
        self.manifest, self.provider, self.warnings = real.manifest, provider, real.warnings
        self._real = real

    def run(self, *args: Any) -> Any:
        return self._real.run(*args)

    def close(self) -> None:
        self._real.close()


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and no wish of the environment."""
    monkeypatch.delenv("CARRYOVER_PROVIDER", raising=False)
    return publish_transducer(tmp_path)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, float]]:
    """A machine with a GPU that is made up: rows a second by provider and rows."""
    rates = {CPU: {1: 100.0, 4: 150.0, 16: 150.0}, CUDA: {1: 10.0, 4: 40.0, 16: 1600.0}}
    real_open = repository.open_graphs

    def open_graphs(folder: Path, manifest: Any, config: RunnerConfig) -> SecondRunner:
        real = real_open(folder, manifest, RunnerConfig("cpu", 1, config.num_slots, 64))
        return SecondRunner(real, CPU if config.provider == "cpu" else CUDA)

    def rate(runner: SecondRunner, rows: int, seconds: float, runners: int, clock: object) -> Rate:
        return Rate(runs_per_s=rates[runner.provider][rows] / rows, rows_per_s=rates[runner.provider][rows])

    monkeypatch.setattr(repository, "open_graphs", open_graphs)
    monkeypatch.setattr(driver, "name_of_gpu", lambda device_id: "NVIDIA H100")
    monkeypatch.setattr(crossover, "measure_rate", rate)
    monkeypatch.setenv("CARRYOVER_RUNNERS", "3")
    return rates


def arguments(bundle: Path, *more: str) -> list[str]:
    return ["bench", "crossover", bundle.parent.name, "--repository", str(bundle.parent.parent), *more]


def test_what_is_measured_is_printed_with_the_crossover_and_kept(
    bundle: Path, with_gpu: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(bundle, "--rows", "16,1,4", "--seconds", "0.25")) == 0
    said = capsys.readouterr().out.splitlines()
    table = [line.split() for line in said if line[:6].strip().isdigit()]
    assert table == [
        ["1", "100", "100", "10", "10", "CPU"],
        ["4", "38", "150", "10", "40", "CPU"],
        ["16", "9", "150", "100", "1,600", "GPU"],
    ]
    assert "crossover: 16 rows, from which on the GPU is quicker" in said
    assert "auto: the GPU, with 150 rows/s at best on the CPU and 1,600 on the GPU" in said
    manifest = load_manifest(bundle)
    kept = load(bundle, manifest, host_of(RunnerConfig(), "NVIDIA H100"))
    assert kept is not None
    assert (kept.row, kept.runners, kept.graph) == (16, 3, "step")
    (path,) = bundle.glob("host-profiles/*.crossover.json")
    assert said[-1] == f"kept in {path}"


def test_the_form_of_the_step_that_each_has_measured_is_said(
    bundle: Path, with_gpu: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = repository.open_graphs

    def open_graphs(folder: Path, manifest: Manifest, config: RunnerConfig) -> Any:
        runner = real_open(folder, manifest, config)
        if config.provider != "cpu":  # as where the service has chosen it
            step = runner.manifest.graphs["step"]
            step = step.model_copy(update={"file": "step.folded.onnx", "variants": {"folded": "step.folded.onnx"}})
            runner.manifest = runner.manifest.model_copy(update={"graphs": {**runner.manifest.graphs, "step": step}})
        return runner

    monkeypatch.setattr(repository, "open_graphs", open_graphs)
    assert run(arguments(bundle, "--rows", "1,4")) == 0
    said = capsys.readouterr().out.splitlines()
    assert "measured of the graph step: as it is on the CPU, form 'folded' on the GPU" in said


def test_one_size_measured_anew_leaves_the_others_kept(
    bundle: Path, with_gpu: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(bundle, "--rows", "1,4,16", "--seconds", "0.25")) == 0
    capsys.readouterr()
    assert run(arguments(bundle, "--rows", "1", "--seconds", "0.25")) == 0
    said = capsys.readouterr().out.splitlines()
    assert "with what was measured before at 4, 16 rows" in said
    assert "crossover: 16 rows, from which on the GPU is quicker" in said
    assert "for services in which up to 256 rows can be ready at a time" in said
    kept = load(bundle, load_manifest(bundle), host_of(RunnerConfig(), "NVIDIA H100"))
    assert kept is not None and sorted(kept.cuda) == sorted(kept.cpu) == [1, 4, 16]


def test_where_the_gpu_never_wins_the_cpu_is_what_auto_takes(
    bundle: Path, with_gpu: dict[str, dict[int, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpu[CUDA][16] = 149.0
    assert run(arguments(bundle, "--rows", "1,4,16")) == 0
    said = capsys.readouterr().out.splitlines()
    assert "crossover: none; the CPU is quicker at 16 rows" in said
    assert "auto: the CPU, with 150 rows/s at best on the CPU and 149 on the GPU" in said


def test_without_a_gpu_the_cpu_is_measured_and_one_line_says_why_it_is_alone(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real, but for the machine's providers."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    monkeypatch.setenv("CARRYOVER_RUNNERS", "1")
    assert run(arguments(bundle, "--rows", "1,3", "--seconds", "0.002")) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(" version 1, CPU: 1 runner of 1 thread")
    assert said[1].startswith("on ") and said[1].endswith(", CPUExecutionProvider, 1 thread")
    assert [line for line in said if "GPU:" in line] == [
        "GPU: not measured: this ONNX Runtime has no CUDA; pip install 'carryover[serve-gpu]' brings it, in a checkout "
        "make RUNTIME=serve-gpu"
    ]
    assert "measured of the graph step: as it is on the CPU" in said
    table = [line.split() for line in said if line[:6].strip().isdigit()]
    assert [(row[0], *row[3:]) for row in table] == [("1", "-", "-", "-"), ("3", "-", "-", "-")]
    assert all(float(figure.replace(",", "")) > 0 for row in table for figure in row[1:3])
    assert said[-1] == "nothing to compare: nothing is kept"
    assert not list(bundle.glob("host-profiles/*.crossover.json"))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--model-version", "7"], "expected version 7 of "),
        (["--repository", "missing"], "expected a folder"),
    ],
)
def test_what_is_not_there_is_one_line(
    bundle: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(bundle, *more)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("carryover: ") and told in line


def test_a_model_of_another_name_is_told_from_one_without_the_version(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "crossover", "nobody", "--repository", str(bundle.parent.parent)]) == 1
    assert "expected a model 'nobody' in " in capsys.readouterr().err


@pytest.mark.parametrize("rows", ["", "0", "1,x", "-1", "1,,2", "65537", "1.5"])
def test_rows_that_are_none_are_wrong_usage(bundle: Path, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(bundle, f"--rows={rows}")) == 2
    assert "numbers from 1 to 65536" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], []),
        (["steps", "--seconds", "2"], ["steps", "--seconds", "2"]),
        (["--seconds", "2"], ["--seconds", "2"]),
        (["compare", "steps"], ["steps"]),
        (["compare", "--help"], ["--help"]),
    ],
)
def test_what_names_no_command_goes_to_compare(
    given: list[str], passed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("runpy.run_module", lambda name, run_name: seen.append(sys.argv[1:]))
    monkeypatch.setattr("sys.argv", ["carryover"])
    assert run(["bench", *given]) == 0
    assert seen == [passed]


def test_help_of_the_group_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--help"]) == 0
    said = capsys.readouterr().out
    assert "crossover" in said and "compare" in said


def test_the_newest_version_is_measured_unless_another_is_named(
    bundle: Path, with_gpu: object, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_transducer(bundle.parent.parent, bundle.parent.name, 2)
    for more, version in ((), 2), (("--model-version", "1"), 1):
        assert run(arguments(bundle, "--rows", "1", *more)) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith(f"{bundle.parent.name} version {version}, ")
        assert Path(said[-1].removeprefix("kept in ")).parents[1].name == str(version)
