"""`carryover export`: what it refuses before it begins."""

from pathlib import Path

import pytest

from carryover.cli.app import run


def test_int8_for_cuda_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "repository"
    arguments = ["export", str(tmp_path), "--repository", str(repository), "--precision", "int8", "--for", "cuda"]
    assert run(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--precision: expected fp32 or fp16 with --for cuda, got int8" in line
    assert not repository.exists()
