"""`carryover export`: what it refuses before it begins."""

import sys
from pathlib import Path

import pytest

from carryover.cli.app import run


def test_int8_for_cuda_is_wrong_usage_and_said_before_anything_slow_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("carryover.cli.publishing", "models.training.config", "export.triton.repository"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    repository = tmp_path / "repository"
    arguments = ["export", str(tmp_path), "--repository", str(repository), "--precision", "int8", "--for", "cuda"]
    assert run(arguments) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "--precision: expected fp32 or fp16 with --for cuda, got int8" in said
    assert not repository.exists()
