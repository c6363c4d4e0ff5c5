"""Hostile files given to the command: one line, a status that says no, and nothing in the repository."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from carryover.cli.app import run
from tests.importing.reading.hostile_files import EXTERNAL_REASONS, HOSTILE, MODEL
from tests.importing.small_models import honest

pytestmark = pytest.mark.slow


def contents(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_the_command_says_why_in_one_line_and_writes_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    HOSTILE[name].write(tmp_path)
    repository = tmp_path / "repository"
    before = contents(tmp_path)
    status = run(["import-onnx", str(tmp_path / MODEL), "--repository", str(repository), "--name", "hostile", "--yes"])
    output = capsys.readouterr()
    assert status == 1
    (line,) = output.err.splitlines()
    assert re.search(HOSTILE[name].reason, line)
    assert "Traceback" not in output.out + output.err
    assert line.isprintable()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", EXTERNAL_REASONS)
def test_allowing_external_data_allows_no_more_than_that(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    HOSTILE[name].write(tmp_path)
    repository = tmp_path / "repository"
    arguments = ["import-onnx", str(tmp_path / MODEL), "--repository", str(repository), "--name", "hostile", "--yes"]
    status = run([*arguments, "--allow-external"])
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 1
    assert re.search(EXTERNAL_REASONS[name], line)
    assert not repository.exists()


@pytest.mark.parametrize(
    "name", ["text", "a FIFO", "a cycle", "graphs a thousand deep", "a constant to compute of 40 GiB"]
)
def test_a_process_of_its_own_ends_the_same_way(name: str, tmp_path: Path) -> None:
    HOSTILE[name].write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "carryover", "import-onnx", str(tmp_path / MODEL), "--repository", "repository"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(HOSTILE[name].reason, line)
    assert not (tmp_path / "repository").exists()


def test_a_refused_version_leaves_the_one_before_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "repository"
    arguments = ["--repository", str(repository), "--name", "m", "--yes"]
    (tmp_path / MODEL).write_bytes(honest().SerializeToString())
    assert run(["import-onnx", str(tmp_path / MODEL), *arguments]) == 0
    before = {path: path.stat() for path in contents(repository)}
    (tmp_path / MODEL).write_bytes(honest().SerializeToString()[:-1])
    assert run(["import-onnx", str(tmp_path / MODEL), *arguments]) == 1
    assert {path: path.stat() for path in contents(repository)} == before
    assert "truncated" in capsys.readouterr().err
