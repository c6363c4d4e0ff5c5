"""The service as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from carryover.client.types import StepOutput

SERVE = """
import sys
from service.main import serve
from service.settings import load_settings
{before}
sys.exit(serve(load_settings()))
"""
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A server process; its log is on stderr."""

    process: subprocess.Popen[str]
    address: str

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Signal the server, and give its exit status and log."""
        self.process.send_signal(how)
        _, log = self.process.communicate(timeout=30)
        return self.process.returncode, log


def start(repository: Path, before: str = "", /, **settings: object) -> subprocess.Popen[str]:
    """Start a server process that runs some Python first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CARRYOVER_")}
    chosen = {"port": 0, "provider": "cpu", "repository": repository, "http_port": 0} | settings
    environment |= {f"CARRYOVER_{name.upper()}": str(value) for name, value in chosen.items()}
    return subprocess.Popen(
        [sys.executable, "-c", SERVE.format(before=before)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(repository: Path, before: str = "", /, **settings: object) -> Iterator[Running]:
    process = start(repository, before, **settings)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("serving on "):
            pytest.fail(f"got {line!r}: {process.communicate(timeout=30)[1]}")
        yield Running(process, line.removeprefix("serving on ").strip())
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def best_of(outputs: list[StepOutput]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(output.token_ids, output.log_probs) for output in outputs]


def wait_for(process: subprocess.Popen[str], text: str, *, log: list[str]) -> None:
    """Read the log up to a line that has a text."""
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, f"the log ended before {text!r}: {log}"
        log.append(line)
