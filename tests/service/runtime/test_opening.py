"""Which provider a bundle runs on and what is said of it: all that the settings and the machine may be."""

from pathlib import Path
from typing import Final

import onnxruntime as ort
import pytest

from export.manifest import Manifest
from service.runtime import opening
from service.runtime.errors import OutOfDeviceMemory, ProviderUnavailable, RunnerError, cause, is_out_of_memory
from service.runtime.opening import open_runner
from service.runtime.providers import CPU, CUDA, Provider
from service.runtime.runner import RunnerConfig
from tests.service import tiny_models as tiny

TABLE = tiny.make_table()
NO_DRIVER: Final = ProviderUnavailable("a working CUDAExecutionProvider", "no NVIDIA driver (libcuda.so.1: not there)")
FALLEN: Final = RunnerError("provider cuda: graph step: expected the recurrence on the GPU, got GRU g on the CPU")
# As ONNX Runtime words them.
ARENA: Final = RuntimeError(
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: /onnxruntime_src/onnxruntime/core/"
    "framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
    "Failed to allocate memory for requested buffer of size 4294967296\n"
)
ON_DEVICE: Final = RuntimeError(
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, onnxruntime::"
    "common::Status> onnxruntime::CudaCall(ERRTYPE, const char*) [with ERRTYPE = cudaError] CUDA failure 2: out of "
    "memory ; GPU=0 ; hostname=vm ; file=cuda_allocator.cc ; line=48 ; expr=cudaMalloc((void**)&p, size);"
)
ILLEGAL: Final = RuntimeError(
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 CUDA failure 700: an illegal memory access was "
    "encountered ; GPU=0 ; hostname=vm"
)
ELSEWHERE: Final = RunnerError("graph step on CUDAExecutionProvider: expected an update in place, got a copy")


class Opened:
    """A runner, of which only counts where it runs and what is said."""

    def __init__(
        self, folder: Path, manifest: Manifest, config: RunnerConfig, provider: str, warnings: tuple[str, ...] = ()
    ) -> None:
        self.provider, self.warnings = provider, warnings


def open_on(
    monkeypatch: pytest.MonkeyPatch,
    provider: Provider,
    available: tuple[str, ...] = (CUDA, CPU),
    failure: Exception | None = None,
    fallen: str | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Open on a machine where CUDA fails, or leaves something to the CPU; where, and what is said."""

    class Runner(Opened):
        def __init__(
            self, folder: Path, manifest: Manifest, config: RunnerConfig, on: str, warnings: tuple[str, ...] = ()
        ) -> None:
            if on == CUDA and failure is not None:
                raise failure
            if on == CUDA and fallen is not None and config.provider == "cuda":
                raise RunnerError(fallen)
            super().__init__(folder, manifest, config, on, warnings + ((fallen,) if fallen and on == CUDA else ()))

    monkeypatch.setattr(opening, "Runner", Runner)
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(available))
    manifest = Manifest(
        name="m", version=1, task="tensors", precision="fp32", graphs={}, tokenizers={}, created="", files={}
    )
    runner = open_runner(Path("m/1"), manifest, RunnerConfig(provider, num_slots=77))
    return runner.provider, runner.warnings


@pytest.mark.parametrize("failure", [None, NO_DRIVER, ARENA])
@pytest.mark.parametrize("available", [(CPU,), (CUDA, CPU)])
def test_the_cpu_is_the_cpu_whatever_there_is(
    monkeypatch: pytest.MonkeyPatch, available: tuple[str, ...], failure: Exception | None
) -> None:
    assert open_on(monkeypatch, "cpu", available, failure) == (CPU, ())


def test_without_cuda_built_in_auto_says_nothing_and_cuda_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_on(monkeypatch, "auto", ("AzureExecutionProvider", CPU)) == (CPU, ())
    with pytest.raises(ProviderUnavailable) as error:
        open_on(monkeypatch, "cuda", ("AzureExecutionProvider", CPU))
    assert str(error.value) == (
        "provider cuda: expected CUDAExecutionProvider, got an ONNX Runtime with AzureExecutionProvider, "
        "CPUExecutionProvider only; pip install 'carryover[serve-gpu]' brings it"
    )


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_where_cuda_works_it_is_taken(monkeypatch: pytest.MonkeyPatch, provider: Provider) -> None:
    assert open_on(monkeypatch, provider) == (CUDA, ())


def test_a_recurrence_on_the_cpu_is_a_warning_under_auto_and_an_error_under_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = "graph step: the recurrence runs on the CPU"
    assert open_on(monkeypatch, "auto", fallen=told) == (CUDA, (told,))
    with pytest.raises(RunnerError, match=told) as error:
        open_on(monkeypatch, "cuda", fallen=told)
    assert not isinstance(error.value, ProviderUnavailable)  # of this bundle alone: others are served


@pytest.mark.parametrize(
    ("failure", "warning"),
    [
        (
            NO_DRIVER,
            "runs on the CPU: CUDAExecutionProvider is installed but does not work: expected a working one, got no "
            "NVIDIA driver (libcuda.so.1: not there)",
        ),
        (ARENA, "runs on the CPU: the GPU has too little memory for it: no 4294967296 bytes in one piece"),
        (ON_DEVICE, "runs on the CPU: the GPU has too little memory for it: CUDA failure 2: out of memory"),
        (
            ILLEGAL,
            "runs on the CPU: it fails on CUDAExecutionProvider: CUDA failure 700: an illegal memory access was "
            "encountered",
        ),
        (
            ELSEWHERE,
            "runs on the CPU: it cannot be run on CUDAExecutionProvider: graph step on CUDAExecutionProvider: expected "
            "an update in place, got a copy",
        ),
    ],
)
def test_under_auto_what_fails_on_cuda_runs_on_the_cpu_with_one_line(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, warning: str
) -> None:
    assert open_on(monkeypatch, "auto", failure=failure) == (CPU, (warning,))
    assert "\n" not in warning


@pytest.mark.parametrize("failure", [NO_DRIVER, ILLEGAL, ELSEWHERE])
def test_under_cuda_what_fails_fails_as_it_is(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    with pytest.raises(type(failure)) as error:
        open_on(monkeypatch, "cuda", failure=failure)
    assert error.value is failure


@pytest.mark.parametrize(
    ("failure", "told"), [(ARENA, "no 4294967296 bytes in one piece"), (ON_DEVICE, "CUDA failure 2: out of memory")]
)
def test_under_cuda_too_little_memory_names_the_settings_that_say_how_much_is_taken(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, told: str
) -> None:
    with pytest.raises(OutOfDeviceMemory) as error:
        open_on(monkeypatch, "cuda", failure=failure)
    assert str(error.value) == (
        f"provider cuda: expected room on the GPU for the graphs and 77 slots, got {told}; CARRYOVER_NUM_SLOTS and "
        "CARRYOVER_NUM_MEMORY_ROWS say how much is taken"
    )


def test_errors_that_are_not_of_memory_are_told_by_their_first_line() -> None:
    assert not is_out_of_memory(ILLEGAL)
    assert cause(ValueError("first\nsecond")) == "first"
    assert cause(ValueError()) == "ValueError"


def test_where_cuda_is_not_built_in_a_real_bundle_runs_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tiny.write_language_model(tmp_path, TABLE)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    runner = open_runner(tmp_path, manifest, RunnerConfig("auto", 1, 16, 32))
    assert (runner.provider, runner.warnings) == (CPU, ())


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="needs an ONNX Runtime where CUDA does not work")
def test_cuda_that_is_installed_and_broken_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """For real: this ONNX Runtime passes CUDA over, as one does whose libraries are missing."""
    manifest = tiny.write_language_model(tmp_path, TABLE)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    runner = open_runner(tmp_path, manifest, RunnerConfig("auto", 1, 16, 32))
    assert runner.provider == CPU
    assert "CUDAExecutionProvider is installed but does not work: expected a working one, got" in runner.warnings[0]
    with pytest.raises(ProviderUnavailable):
        open_runner(tmp_path, manifest, RunnerConfig("cuda", 1, 16, 32))
    assert capfd.readouterr() == ("", "")
