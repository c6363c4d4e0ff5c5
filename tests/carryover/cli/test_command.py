"""The command as a person meets it: help, exit statuses, and nothing heavy loaded before it is needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from carryover.cli.app import app, run
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = ("bench", "call", "demo", "evaluate", "export", "models", "serve", "train")
HEAVY = ("google.protobuf", "grpc", "lightning", "numpy", "onnx", "onnxruntime", "tokenizers", "torch")


def plain(text: str) -> str:
    """Text without colours, boxes and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "bench"])
def test_help_says_what_the_command_does_and_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    said = plain(capsys.readouterr().out)
    assert f"Usage: carryover {command}" in said
    assert len(said) > 300
    if command != "demo":
        assert f"carryover {command} " in said.split("Example", 1)[1]


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^│ {name} ", said, re.MULTILINE) for name in COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from carryover.cli.app import app, run
from service.settings import Settings
for arguments in (["--help"], ["train", "--help"], ["call", "--help"]):
    assert run(arguments) == 0
print("loaded:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tarin"],
        ["train"],
        ["train", "a.yaml", "--runn", "x"],
        ["export", "runs/x"],
        ["export", "runs/x", "--repository", "r", "--precision", "fp8"],
        ["export", "runs/x", "--repository", "r", "--for", "tpu"],
        ["evaluate", "runs/x", "--split", "train"],
        ["models"],
        ["models", "--repository", "r", "--server", "h:1"],
        ["call", "m", "x", "--beam", "0"],
        ["serve", "--port", "70000"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["models", "--repository", "missing"], "expected a folder"),
        (["models", "--server", "127.0.0.1:1"], "connect"),
        (["call", "m", "x", "--server", "127.0.0.1:1"], "connect"),
        (["call", "m", "x", "--tls-ca", "missing.pem"], "missing.pem: No such file"),
        (["demo", "--config", "missing.yaml"], "missing.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_failure_is_status_1_and_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("carryover: ") and "internal error" not in line
    assert told in line


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_ctrl_c_is_one_line_and_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(repository: Path) -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr("export.bundle.list_versions", interrupted)
    assert run(["models", "--repository", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "carryover: interrupted\n"


def test_a_bare_client_install_is_told_which_extra_brings_the_command() -> None:
    # -S leaves out site-packages, and with them typer and rich
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from carryover.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "carryover[serve]" in line and "carryover[train]" in line


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "carryover", "nonsense"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2


def test_libraries_are_configured_unless_the_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {**os.environ, "GOMP_SPINCOUNT": "7"})
    os.environ.pop("ORT_DISABLE_TELEMETRY", None)
    assert run(["--version"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_defaults_that_serve_shows_are_those_of_the_settings() -> None:
    group = typer.main.get_command(app)
    options = group.commands["serve"].params  # type: ignore[attr-defined]  # a group, since there are several commands
    shown = {option.name: option.show_default for option in options if isinstance(option.show_default, str)}
    assert {"repository", "host", "port", "http_port", "http", "provider", "threads"} <= set(shown)
    for name, default in shown.items():
        assert default == str(Settings.model_fields[name].default), name
