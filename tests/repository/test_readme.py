"""What README.md and CONTRIBUTING.md tell people to type exists, and so does every file that they name."""

import ast
import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from carryover.cli.app import app
from carryover.client.session import Session
from carryover.client.sync import Client

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    """Arguments of every command of the pages that runs this program."""
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0].removeprefix(".venv/bin/") == program]


@pytest.mark.parametrize("arguments", commands("carryover"), ids=" ".join)
def test_the_command_takes_these_arguments(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    name, *rest = arguments
    command = group.commands[name]  # type: ignore[attr-defined]  # a group, since there are several commands
    command.make_context(name, rest)  # parses, and refuses what it does not know


@pytest.mark.parametrize("arguments", commands("make"), ids=" ".join)
def test_make_has_the_target(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    assert {word for word in arguments if "=" not in word} <= set(targets)


def test_the_targets_that_the_project_promises_are_there_and_phony() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(["demo", "test", "lint", "type", "format", "proto", "check", "bench", "clean"]) <= set(phony[1].split())


@pytest.mark.parametrize("arguments", commands("docker"), ids=" ".join)
def test_compose_has_the_profile_and_the_service(arguments: list[str]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert arguments[0] == "compose"
    if "--profile" in arguments:
        profile, service = arguments[arguments.index("--profile") + 1], arguments[-1]
        assert profile in services[service]["profiles"]


def test_every_program_of_the_pages_is_checked_here() -> None:
    known = {"carryover", "make", "docker", ".", "python"}
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    assert {shlex.split(line)[0].removeprefix(".venv/bin/") for line in lines} <= known


def test_every_file_that_the_pages_name_exists() -> None:
    made = {"runs", "repository"}  # by the commands, not by us
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        typed = [word for block in blocks(page, "bash") for word in shlex.split(block, comments=True)]
        quoted = re.findall(r"`([\w./-]+)`", text) + typed
        top = {path.name for path in ROOT.iterdir()}
        paths = [w for w in quoted if "/" in w and w.split("/")[0] in top - made and not w.startswith(".venv")]
        assert paths, page
        missing = [path for path in paths if not (ROOT / path).exists()]
        assert not missing, f"{page} names {missing}"


def tree() -> list[str]:
    """Paths of README's file tree."""
    (block,) = blocks("README.md", "text")
    paths, folders = [], [""]
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = folders[depth] + line.split()[0]
        paths.append(path)
        if path.endswith("/"):
            folders[depth + 1 :] = [path]
    return paths


def test_the_file_tree_is_that_of_the_repository() -> None:
    shown = tree()
    assert not [path for path in shown if not (ROOT / path).exists()]
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    listed = git.stdout.splitlines()
    if not listed:
        pytest.skip("needs a git checkout")
    folders = {path.split("/")[0] for path in listed if "/" in path and not path.startswith(".")}
    assert folders <= {path.split("/")[0] for path in shown}


@pytest.mark.parametrize(
    "block", blocks("README.md", "python"), ids=["open-inference-protocol", "transduce", "session"]
)
def test_the_python_examples_use_what_exists(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            owner = {"client": Client, "session": Session}.get(node.func.value.id)
            if owner is not None:
                parameters = inspect.signature(getattr(owner, node.func.attr)).parameters
                assert {keyword.arg for keyword in node.keywords} <= set(parameters)
