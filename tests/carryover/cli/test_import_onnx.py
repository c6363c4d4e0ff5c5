"""`carryover import-onnx`: shows what it concludes, asks on a terminal, wants flags elsewhere."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from carryover.cli.app import run
from carryover.cli.import_onnx import HELP
from export.bundle import load_manifest
from tests.importing import recurrent_models as models
from tests.importing.streams import write

pytestmark = pytest.mark.slow  # each reads its file in a process of its own


def command(folder: Path, *flags: str) -> list[str]:
    return ["import-onnx", str(folder / "model.onnx"), "--repository", str(folder / "repository"), *flags]


def test_what_is_concluded_and_measured_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, models.lstm())
    assert run(command(tmp_path, "--yes", "--name", "lstm")) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "h hn float32 [1, 4] 1 zeros recurrent operators" in lines
    assert "input x float32 [B, time, 3] time=1" in lines
    assert "pooled = original hn none: bit for bit 1e-05 96" in lines
    assert f"published {tmp_path / 'repository' / 'lstm' / '1'}" in lines


def test_a_shared_input_and_a_fixed_batch_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, models.switched())
    assert run(command(tmp_path, "--yes", "--example", "sr=8000")) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "sr int64 [], shared by all rows 8000" in out
    write(tmp_path, models.cell(1))
    assert run(command(tmp_path, "--yes")) == 0
    assert "runs unbatched, one row at a time: its batch is fixed" in capsys.readouterr().out


def test_elsewhere_than_on_a_terminal_flags_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, models.lstm())
    assert run(command(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "expected --yes, or in its place --state h=hn,axis=1 --state c=cn,axis=1" in error
    assert not (tmp_path / "repository").exists()
    assert run(command(tmp_path, "--state", "h=hn,axis=1", "--state", "c=cn,axis=1")) == 0


def test_states_are_taken_from_flags(tmp_path: Path) -> None:
    np.save(tmp_path / "start.npy", np.ones(4, np.float32))
    write(tmp_path, models.cell())
    assert run(command(tmp_path, "--state", f"state=state_out,axis=0,init={tmp_path / 'start.npy'}")) == 0
    manifest = load_manifest(tmp_path / "repository" / "model" / "1")
    assert manifest.initial_states_file is not None
    with np.load(tmp_path / "repository" / "model" / "1" / manifest.initial_states_file) as arrays:
        np.testing.assert_array_equal(arrays["state"], np.ones(4, np.float32))


def test_ambiguity_is_one_line_with_the_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models.lstm()
    model.graph.node.append(models.node("Identity", ["hn"], ["h_out"]))
    model.graph.output.append(models.value("h_out", [1, "batch", 4]))
    write(tmp_path, model)
    assert run(command(tmp_path, "--yes")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--state h=hn or --state h=h_out" in line


def test_the_reference_servers_repository_is_written_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, models.cell())
    assert run(command(tmp_path, "--yes", "--name", "cell", "--triton", str(tmp_path / "triton"))) == 0
    assert f"wrote {tmp_path / 'triton' / 'cell'}" in capsys.readouterr().out
    assert (tmp_path / "triton" / "cell" / "config.pbtxt").is_file()


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1)])
def test_on_a_terminal_it_asks(answer: str, status: int, tmp_path: Path) -> None:
    write(tmp_path, models.lstm())
    controller, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "carryover", *command(tmp_path)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "COLUMNS": "120", "TERM": "dumb"},
        )
        os.close(terminal)
        os.write(controller, f"{answer}\n".encode())
        shown = b""
        while True:
            try:
                shown += os.read(controller, 65536)
            except OSError:  # the terminal is closed when the process has ended
                break
        assert process.wait(60) == status
    finally:
        os.close(controller)
    assert b"Is this right? [y/N]" in shown
    assert (tmp_path / "repository").exists() == (status == 0)


def test_the_examples_of_the_help_are_commands_that_parse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    examples = [line.split()[2:] for line in HELP.splitlines() if line.startswith("  carryover import-onnx")]
    assert len(examples) == 3
    for example in examples:
        assert run(["import-onnx", str(tmp_path / "none.onnx"), *example[1:]]) == 1  # 2 would be wrong usage
        assert "none.onnx" in capsys.readouterr().err
