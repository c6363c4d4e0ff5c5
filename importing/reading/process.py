"""Try a model in a process of its own, which may hang, run out of memory or be killed by what it reads.

Parsers, the ONNX checker, shape inference and the runtime are large C++ programs that follow what a file says. Whoever
writes the file decides how deep they recurse and how much they allocate, so all of them first see it there: with
bounded memory and time, no files to write and nothing to answer but a reason.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from importing.errors import ImportRefused
from importing.reading.trial import DONE, REFUSED, STAGE, Trial

_ROOT: Final = Path(__file__).resolve().parents[2]
_START: Final = "import sys; sys.path.insert(0, sys.argv[1]); from importing.reading.trial import main; main()"
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONIOENCODING": "utf-8"}


def try_model(content: bytes, trial: Trial) -> None:
    """Have a file parsed, checked and opened elsewhere.

    Raises:
        ImportRefused: It was refused, took too long or too much, or ended the process.
    """
    command = [sys.executable, "-I", "-c", _START, str(_ROOT), json.dumps(asdict(trial))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment | _ENVIRONMENT,
        start_new_session=True,  # an interrupt at the terminal is the parent's to answer, which ends this one
    )
    try:
        output, _ = process.communicate(content, timeout=trial.limits.max_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        stage = _stages(output)[-1]
        raise ImportRefused(f"{stage} it took more than {trial.limits.max_seconds:g} s") from None
    finally:
        process.kill()
        process.wait()
    answers = output.decode("utf-8", "replace").splitlines()
    if answers and answers[-1].startswith(REFUSED):
        raise ImportRefused(answers[-1].removeprefix(REFUSED))
    if process.returncode != 0 or not answers or answers[-1] != DONE:
        raise ImportRefused(f"{_stages(output)[-1]} it {_ending(process.returncode)}")


def _stages(output: bytes) -> list[str]:
    lines = output.decode("utf-8", "replace").splitlines()
    return ["starting to read", *(line.removeprefix(STAGE) for line in lines if line.startswith(STAGE))]


def _ending(status: int) -> str:
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "took more time or memory than it may"
    if status < 0:
        return f"crashed the library that does that ({signal.Signals(-status).name})"
    return f"ended the process that tried, with status {status}"
