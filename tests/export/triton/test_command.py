"""`--triton` of both commands."""

from pathlib import Path

import pytest

from carryover.cli.app import run
from tests.export.runs import train
from tests.export.triton.reference_rules import check
from tests.importing.small_models import honest

pytestmark = pytest.mark.slow


def test_export_writes_what_the_reference_server_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(tmp_path / "data", "language_model")
    arguments = ["export", str(folder), "--repository", str(tmp_path / "repository"), "--name", "lm"]
    assert run([*arguments, "--triton", str(tmp_path / "triton")]) == 0
    assert f"wrote {tmp_path / 'triton' / 'lm'} for Triton" in capsys.readouterr().out
    config, _ = check(tmp_path / "triton" / "lm")
    assert len(config["sequence_batching"]["state"]) == 4  # hidden and cell of two layers


def test_import_writes_what_the_reference_server_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(honest().SerializeToString())
    arguments = ["import-onnx", str(tmp_path / "m.onnx"), "--repository", str(tmp_path / "repository"), "--yes"]
    assert run([*arguments, "--triton", str(tmp_path / "triton")]) == 0
    assert str(tmp_path / "triton" / "m") in capsys.readouterr().out
    config, _ = check(tmp_path / "triton" / "m")
    (state,) = config["sequence_batching"]["state"]
    assert (state["input_name"], state["output_name"], state["dims"]) == ("state", "state_out", ["4"])


def test_what_cannot_be_said_there_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(tmp_path / "data", "encoder_decoder")
    arguments = ["export", str(folder), "--repository", str(tmp_path / "repository"), "--name", "translate"]
    assert run([*arguments, "--triton", str(tmp_path / "triton")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "attention memory" in line
    assert not (tmp_path / "repository").exists()
    assert not (tmp_path / "triton").exists()
