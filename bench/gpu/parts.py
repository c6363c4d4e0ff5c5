"""The parts of the script, in order; each runs in a process of its own.

So a part that hangs can be ended, one that a fault of the card brings down takes nobody along, what one has allocated
is free for the next, and PyTorch and ONNX Runtime do not meet, whose CUDA libraries may differ.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from bench.gpu.journal import Found, read


class Part(NamedTuple):
    """Where a part is, and what it shows."""

    module: str
    function: str
    shows: str


PARTS: Final = {
    "machine": Part("bench.gpu.machine", "describe", "card, driver, libraries, processor"),
    "models": Part("bench.gpu.models", "make", "models with random weights"),
    "parity": Part("bench.gpu.parity", "show", "every family against the processor, and where its nodes run"),
    "residence": Part("bench.gpu.residence", "show", "state in place, rows apart, graphs captured, memory"),
    "traffic": Part("bench.gpu.traffic", "show", "bytes between host and device"),
    "peer": Part("bench.gpu.peer", "show", "PyTorch on the same shapes, and what the card can do"),
    "steps": Part("bench.gpu.steps", "show", "steps/s in process"),
    "wire": Part("bench.gpu.wire", "show", "steps/s through gRPC"),
    "crossover": Part("bench.gpu.crossover", "show", "processor or card, for the models that the configs train"),
}
PROGRAM: Final = (sys.executable, "-m", "bench.gpu.part")
_SOFT: Final = 0.85  # of a part's seconds, after which it begins no measurement
_GRACE_S: Final = 2.0  # between asking a process to end and ending it


@dataclass(frozen=True)
class Order:
    """What the process of a part is told.

    Args:
        part: Its name.
        provider: cuda or cpu.
        smoke: Whether everything is tiny.
        work: Folder of this run: journals, logs.
        models: Folder of the models.
        budget_s: Seconds after which it is ended.
    """

    part: str
    provider: str
    smoke: bool
    work: str
    models: str
    budget_s: float

    @property
    def soft_s(self) -> float:
        """Seconds after which it begins no measurement."""
        return _SOFT * self.budget_s

    @classmethod
    def parse(cls, text: str) -> "Order":
        """From the command line."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Outcome:
    """How a part went.

    Args:
        part: Its name.
        found: What it has found.
        used_s: Seconds that it took.
        budget_s: Seconds that it had.
        fault: Why it ended early; empty where it did not.
    """

    part: str
    found: Found
    used_s: float
    budget_s: float
    fault: str = ""


def run(order: Order, program: Sequence[str] = PROGRAM) -> Outcome:
    """Run a part to its end, or to the end of its time; then it and all that it has started are ended.

    Args:
        order: What it is told.
        program: To which the order is given.
    """
    began = time.monotonic()
    errors = Path(order.work) / f"{order.part}.stderr"
    command = [*program, json.dumps(asdict(order))]
    fault = ""
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True
        )
        try:
            status = process.wait(order.budget_s)
        except subprocess.TimeoutExpired:
            fault = f"ended after its {order.budget_s:.0f} s: what it had found is here"
        else:
            fault = _fault(status, errors)
        finally:
            _end(process)
    found = read(Path(order.work) / f"{order.part}.jsonl")
    return Outcome(order.part, found, time.monotonic() - began, order.budget_s, fault)


def _fault(status: int, errors: Path) -> str:
    if status == 0:
        return ""
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all in its session, such as a server that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
