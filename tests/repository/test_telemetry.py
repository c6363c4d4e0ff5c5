"""Whatever of ours imports ONNX Runtime switches its telemetry off first: it is on by default and tells what runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "carryover", "export", "models", "service")
IMPORT = re.compile(r"^(import|from) onnxruntime\b", re.MULTILINE)


def importers() -> list[str]:
    """Modules of ours that import ONNX Runtime."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    found = [file.relative_to(ROOT) for file in files if IMPORT.search(file.read_text(encoding="utf-8"))]
    return sorted(".".join(file.with_suffix("").parts) for file in found)


def traces(code: str, home: Path) -> list[Path]:
    """Files that code leaves in an empty home folder; telemetry keeps an identifier of the device there."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_")) and name != "CI"
    }
    home.mkdir()
    environment = {**clean, "HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, capture_output=True)
    return [path for path in home.rglob("*") if path.is_file() and "onnxruntime" in str(path.relative_to(home))]


def test_some_module_imports_it() -> None:
    assert "service.runtime.runner" in importers()


@pytest.mark.slow
@pytest.mark.parametrize("module", importers())
def test_importing_it_by_way_of_us_leaves_no_trace(module: str, tmp_path: Path) -> None:
    code = f"import {module}"
    if not traces("import onnxruntime", tmp_path / "plain"):
        pytest.skip("this build of ONNX Runtime has no telemetry")
    assert traces(code, tmp_path / "ours") == []
