"""`carryover train` as a process: Ctrl-C leaves a state to go on from, and a user's mistakes are one line."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import carryover, lay_out

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def test_ctrl_c_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    home = lay_out(tmp_path)
    command = [sys.executable, "-u", "-m", "carryover", "train", "spell.yaml"]
    process = subprocess.Popen(command, cwd=home.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("step "):
        assert line, "ended before the first step"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = said.splitlines()
    assert line.startswith("carryover: stopped by SIGINT at step ")

    done = carryover("train", "spell.yaml", cwd=home.folder)
    assert done.returncode == 0, done.stderr
    assert "going on from step " in done.stdout
    assert (home.folder / "runs/spell/weights.safetensors").is_file()


def test_an_unknown_key_of_the_config_is_named(tmp_path: Path) -> None:
    home = lay_out(tmp_path)
    config = home.folder / "spell.yaml"
    config.write_text(config.read_text() + "optimizer: {name: adam}\n")
    done = carryover("train", "spell.yaml", cwd=home.folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "optimizer" in line and "spell.yaml" in line


def test_a_malformed_line_of_the_data_is_named(tmp_path: Path) -> None:
    home = lay_out(tmp_path)
    with (home.folder / "words.dict").open("a") as lexicon:
        lexicon.write("word without phonemes\n")
    done = carryover("train", "spell.yaml", cwd=home.folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "words.dict, line 401" in line


def test_evaluating_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    done = carryover("evaluate", "runs/none", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "runs/none" in line and "internal error" not in line
