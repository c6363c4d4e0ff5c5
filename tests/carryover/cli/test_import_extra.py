"""`import-onnx` takes what the extra `import` brings, and says so where that is missing."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from carryover.cli.errors import IMPORT, CommandError, needing_import
from tests.importing import recurrent_models as models
from tests.importing.streams import write

ROOT = Path(__file__).resolve().parents[3]
# Runs the command in a Python that has no packages but some.
ALONE = """
import sys
from importlib.abc import MetaPathFinder
class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from carryover.cli.app import run
sys.exit(run({arguments!r}))
"""


def brought(requirements: list[str]) -> set[str]:
    """Distributions that come with these, as they are installed here."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        # Here the ONNX Runtime may be the one for GPUs.
        if name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            found.add(name)
            try:
                waiting += map(Requirement, metadata.requires(name) or ())
            except metadata.PackageNotFoundError:
                assert name == "onnxruntime", name
    return found


def not_brought() -> Iterator[str]:
    """Modules that are installed here and are not there with the extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    here = brought([*project["dependencies"], *project["optional-dependencies"]["import"]]) | {"onnxruntime-gpu"}
    for module, distributions in metadata.packages_distributions().items():
        if not {canonicalize_name(name) for name in distributions} & {*here, "carryover"}:
            yield module


@pytest.mark.slow
def test_the_extra_has_all_that_an_import_takes(tmp_path: Path) -> None:
    write(tmp_path, models.lstm())
    repository = tmp_path / "repository"
    missing = set(not_brought())
    assert {"torch", "grpc_health", "safetensors"} <= missing and not missing & IMPORT
    arguments = ["import-onnx", str(tmp_path / "model.onnx"), "--repository", str(repository), "--yes"]
    code = ALONE.format(missing=missing, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (repository / "model" / "1" / "manifest.json").is_file()


@pytest.mark.parametrize("missing", sorted(IMPORT))
def test_what_is_missing_is_said_with_the_extra_that_brings_it(missing: str, tmp_path: Path) -> None:
    arguments = ["import-onnx", "model.onnx", "--repository", str(tmp_path)]
    code = ALONE.format(missing={missing}, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"carryover: this needs {missing}")
    if not (missing == "onnx" and "onnxruntime-gpu" in {found.name for found in metadata.distributions()}):
        assert line.endswith(", which is not installed: pip install 'carryover[import]'")


def test_beside_the_runtime_for_gpus_onnx_alone_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: name)
    for missing, wanted in (("onnx.helper", "onnx"), ("onnxruntime", "carryover[import]")):
        with pytest.raises(CommandError, match=f"^this needs {missing}, ") as caught, needing_import():
            raise ModuleNotFoundError("missing", name=missing)
        assert str(caught.value).endswith(f": pip install '{wanted}'")


def test_what_else_is_missing_is_not_explained_so() -> None:
    with pytest.raises(ModuleNotFoundError, match="ours"), needing_import():
        raise ModuleNotFoundError("ours", name="importing.nonsense")
