"""The guides are true: their code runs, their requests parse, their tables are complete."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from carryover.client.errors import error_class
from service.rpc.server import SERVICE
from service.rpc.status import CODES
from service.settings import PREFIX, Settings
from tests.service.rpc.world import serving

ROOT = Path(__file__).resolve().parents[3]
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", API, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_the_python_examples_run(number: int) -> None:
    async with serving() as world:
        code = EXAMPLES[number].replace("127.0.0.1:8001", world.address)
        assert world.address in code
        command = [sys.executable, "-c", code]
        done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_the_shell_examples_are_requests_of_the_contract() -> None:
    calls = re.findall(r"-d '(\{.*?\})'[\s\\]+\S+ carryover\.v1\.Carryover/(\w+)", API)
    assert len(calls) >= 2
    for body, method in calls:
        message = GetMessageClass(SERVICE.methods_by_name[method].input_type)()
        json_format.ParseDict(json.loads(body), message)
        assert message.ByteSize()


def test_the_table_of_calls_is_complete() -> None:
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", API, re.MULTILINE)[:7])))
    assert {method.name for method in SERVICE.methods} <= named


def test_the_table_of_errors_is_complete() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|", API, re.MULTILINE))
    assert rows == {(cls.reason, code.name, error_class(code, cls.reason).__name__) for cls, code in CODES.items()}


def written(default: object) -> str:
    """A default as the table has it, which is as a variable would."""
    if isinstance(default, bool):
        return str(default).lower()
    return "-" if default in (None, ()) else str(default)


def test_the_table_of_settings_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", SETTINGS.replace("|  |", "| - |"), re.MULTILINE)
    shown = {name: (default, description) for name, default, description in rows}
    expected = {
        PREFIX + name.upper(): (written(field.default), field.description)
        for name, field in Settings.model_fields.items()
    }
    assert shown == expected
