"""docs/oip.md is true: its model is imported, its examples run, its tables are complete."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.http.status import STATUSES

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "oip.md").read_text(encoding="utf-8")
MODEL, *EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
TOLD = [["0.0", "1.0", "3.0", "6.0", "10.0"], ["[1. 3. 6.]", "[ 7.  9. 12.] [[12.]]"], None, ["101.0"]]


@dataclass(frozen=True)
class Addresses:
    grpc: str
    http: str


def run(*command: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A server of the page's model, imported and served by the page's commands."""
    folder = tmp_path_factory.mktemp("docs")
    run(sys.executable, "-c", MODEL, folder=folder)
    importing, serving = re.findall(r"^carryover (.*)$", TEXT, re.MULTILINE)
    run(sys.executable, "-m", "carryover", *importing.split(), folder=folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CARRYOVER_PORT": "0", "CARRYOVER_HTTP_PORT": "0"}
    command = [sys.executable, "-u", "-m", "carryover", *serving.split()]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            grpc, http = (line.split()[-1] for line in lines)
            yield Addresses(grpc, http)
        finally:
            process.terminate()
            assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_python_examples_run(addresses: Addresses, number: int, tmp_path: Path) -> None:
    code = EXAMPLES[number].replace("127.0.0.1:8001", addresses.grpc).replace("127.0.0.1:8000", addresses.http)
    assert code != EXAMPLES[number]
    lines = run(sys.executable, "-c", code, folder=tmp_path).splitlines()
    expected = TOLD[number]
    if expected is None:
        ends = {f"{sequence}/{step} {float(sequence * (step + 1))}" for sequence in range(1, 5) for step in range(3)}
        assert set(lines) == ends and len(lines) == len(ends)
    else:
        assert lines == expected


@pytest.mark.slow
def test_the_request_of_curl_is_answered(addresses: Addresses, tmp_path: Path) -> None:
    (body,) = re.findall(r"infer -d '(\{.*?\n\})'", TEXT, re.DOTALL)
    code = (
        "import sys, urllib.request as u;"
        f"print(u.urlopen('http://{addresses.http}/v2/models/counter/infer', sys.argv[1].encode()).read().decode())"
    )
    answer = json.loads(run(sys.executable, "-c", code, body, folder=tmp_path))
    assert answer["outputs"] == [{"name": "sum", "datatype": "FP32", "shape": [1, 1], "data": [2.5]}]


def test_the_table_of_errors_gives_the_statuses_of_the_code() -> None:
    rows = re.findall(r"^\| .* \| ([A-Z_]+) \| (\d+) \|$", TEXT, re.MULTILINE)
    assert len(rows) >= 15
    statuses = {str(code): status for code, status in STATUSES.items()}
    for code, status in rows:
        assert statuses[code.lower()] == int(status)


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("Request for unknown model: 'm' is not found", "NOT_FOUND | 404"),
        ("Request for unknown model: 'm' has no available versions", "NOT_FOUND | 404"),
        ("Request for unknown model: 'm' version 9 is not at ready state", "UNAVAILABLE | 503"),
        ("Model version not ready", "| 400"),
    ],
)
def test_what_is_said_of_a_model_that_is_not_served_is_in_the_table(text: str, statuses: str) -> None:
    """The texts and statuses themselves are held by test_core.py and test_calls.py."""
    assert re.search(rf"^\| `{re.escape(text)}`.* \| {re.escape(statuses)} \|$", TEXT, re.MULTILINE)
