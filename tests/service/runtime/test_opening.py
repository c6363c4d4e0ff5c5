from pathlib import Path

import onnxruntime as ort
import pytest

from service.runtime.errors import ProviderUnavailable
from service.runtime.opening import open_runner
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import RunnerConfig
from tests.service import tiny_models as tiny

TABLE = tiny.make_table()


def test_cuda_is_insisted_on_or_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tiny.write_language_model(tmp_path, TABLE)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderUnavailable, match=f"expected {CUDA}, got an ONNX Runtime with {CPU} only"):
        open_runner(tmp_path, manifest, RunnerConfig("cuda", 1, 16, 32))
    runner = open_runner(tmp_path, manifest, RunnerConfig("auto", 1, 16, 32))
    assert (runner.provider, runner.warnings) == (CPU, ())


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="needs an ONNX Runtime where CUDA does not work")
def test_cuda_that_is_installed_and_broken_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tiny.write_language_model(tmp_path, TABLE)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    runner = open_runner(tmp_path, manifest, RunnerConfig("auto", 1, 16, 32))
    assert runner.provider == CPU
    assert "CUDAExecutionProvider is installed but does not work" in runner.warnings[0]
    with pytest.raises(ProviderUnavailable):
        open_runner(tmp_path, manifest, RunnerConfig("cuda", 1, 16, 32))
