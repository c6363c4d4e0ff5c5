"""The service of the GPU image on a machine without a GPU, as its own process: one clear line.

ONNX Runtime is the tests' own, which passes for one with CUDA built in and does as the real one does without a driver.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.service.bundles import publish_transducer
from tests.service.process import SERVE, running

ROOT: Final = Path(__file__).resolve().parents[2]
# The real one prints and gives a session on the CPU where there is no driver; where the driver finds no GPU it raises.
WITHOUT_GPU: Final = """
import ctypes, os
import onnxruntime as ort
real_session, real_library = ort.InferenceSession, ctypes.CDLL
class Session(real_session):
    def __init__(self, path, options, providers, **more):
        if providers != ["CPUExecutionProvider"]:
            if more.get("enable_fallback", 1):
                print("EP Error: falling back")
            {failing}
        super().__init__(path, options, providers=["CPUExecutionProvider"])
def preload_dlls():
    print("Failed to load libcublasLt.so.13: no such file")
def library(name, *more, **others):
    if name == "libcuda.so.1":
        raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
    return real_library(name, *more, **others)
ort.InferenceSession, ort.preload_dlls, ctypes.CDLL = Session, preload_dlls, library
ort.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
"""
RAISES: Final = 'raise RuntimeError("/core/cuda_call.cc:154 CUDA failure 35: driver version is insufficient ; GPU=-1")'
MISSING: Final = "got no NVIDIA driver (libcuda.so.1: cannot open shared object file: No such file or directory)"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    publish_transducer(folder, "tiny", 1)
    publish_transducer(folder, "other", 1)
    return folder


@pytest.mark.parametrize("failing", ["pass", RAISES], ids=["left out", "fails"])
def test_where_cuda_is_insisted_on_it_ends_with_one_line(repository: Path, failing: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CARRYOVER_")}
    environment |= {"CARRYOVER_PROVIDER": "cuda", "CARRYOVER_REPOSITORY": str(repository)}
    environment |= {"CARRYOVER_PORT": "0", "CARRYOVER_HTTP_PORT": "0"}
    code = SERVE.format(before=WITHOUT_GPU.format(failing=failing))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    limits, reason = done.stderr.splitlines()
    assert "INFO service.main: limits: " in limits
    said = f"cannot serve: provider cuda: expected a working CUDAExecutionProvider, {MISSING}"
    assert reason.endswith(f" ERROR service.main: {said}")


def test_where_it_is_left_open_each_model_has_one_warning_and_is_served(repository: Path) -> None:
    with running(repository, WITHOUT_GPU.format(failing=RAISES), provider="auto") as server:
        status, log = server.stop()
    assert status == 0
    said = f"runs on the CPU: CUDAExecutionProvider is installed but does not work: expected a working one, {MISSING}"
    warnings = [line.split(": ", 1)[1] for line in log.splitlines() if " WARNING " in line and "CUDA" in line]
    assert sorted(warnings) == [f"model {name} version 1: {said}" for name in ("other", "tiny")]
    assert "Error" not in log and "Traceback" not in log
