"""What all tests share: one thread of arithmetic, so that results repeat, and the real data sets where they are."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch, NumPy and ONNX Runtime are imported: many small runs on few cores, and sums in one order.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime otherwise reports which models it runs

# How long an example takes is no assertion: a busy machine is nobody's fault.
settings.register_profile("carryover", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("carryover")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Give the path of a file or folder of the real data sets, kept beside a checkout; skip the test without it."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"needs ../shared/data/{name}")
        return path

    return find
