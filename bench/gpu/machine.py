"""What the figures were measured on: card, driver, libraries, processor; and whether there is a card at all."""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from typing import Final

from bench.gpu.cards import Card, known
from bench.gpu.figures import CARD, row_of
from bench.gpu.plan import Context
from bench.report import Cell
from service.runtime.device.cuda import load_runtime
from service.runtime.driver import load_libraries, what_is_missing
from service.runtime.errors import RunnerError
from service.runtime.providers import CUDA

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which is when it counts
import onnxruntime

TABLE: Final = "machine"
_ASKED: Final = (
    "name", "driver_version", "memory.total", "pstate", "power.draw", "power.limit", "clocks.sm", "clocks.max.sm",
    "clocks.mem", "temperature.gpu", "mig.mode.current", "compute_mode",
)  # fmt: skip
_TIMEOUT_S: Final = 10
_PACKAGES: Final = ("onnxruntime-gpu", "onnxruntime", "torch", "numpy", "grpcio", "onnx")


def missing() -> str | None:
    """Why nothing can run on a card here, in one line; None where it can be tried."""
    providers = onnxruntime.get_available_providers()
    if CUDA not in providers:
        return f"expected an ONNX Runtime with {CUDA}, got one with {', '.join(providers)}"
    reason = what_is_missing()
    return f"expected one that works, got {reason}" if reason else None


def describe(context: Context) -> None:
    """The part."""
    facts = {**(card() if context.on_card else {"card": "none asked for"}), **libraries(context.on_card), **host()}
    for name, value in facts.items():
        context.journal.row(TABLE, {"what": name, "": value})
    if context.on_card:
        context.journal.attempt(CARD, {"by": "data sheet"}, lambda: row_of(data_sheet(str(facts["card"]))))


def data_sheet(name: str) -> Card:
    """What a card can do by its maker's figures.

    Raises:
        LookupError: It is not in the table; then what is measured counts.
    """
    sheet = known(name)
    if sheet is None:
        raise LookupError(f"bench/gpu/cards.py has no data sheet of {name}: what is measured counts")
    return sheet


def card() -> dict[str, Cell]:
    """What the driver tells of the first card, as nvidia-smi puts it."""
    answer = _ask(["nvidia-smi", "--id=0", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"])
    if answer is None:
        return {"card": "nvidia-smi does not answer"}
    values = [value.strip() for value in answer.splitlines()[0].split(",")] if answer else []
    return {"card" if name == "name" else name: value for name, value in zip(_ASKED, values, strict=False)}


def libraries(on_card: bool) -> dict[str, Cell]:
    """Versions of what is installed, and of CUDA and cuDNN as they are loaded."""
    versions: dict[str, Cell] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    versions["onnxruntime build"] = onnxruntime.get_build_info()
    if on_card:
        load_libraries()
        versions["CUDA runtime"] = _dotted(_runtime_version())
        version = _told(("libcudnn.so.9",), "cudnnGetVersion")
        versions["cuDNN"] = f"{version // 10000}.{version // 100 % 100}.{version % 100}" if version else None
    return versions


def host() -> dict[str, Cell]:
    """The processor and its system."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        model = ""
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def _ask(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _runtime_version() -> int:
    """Of the CUDA runtime that the service takes, as CUDA writes it; 0: there is none."""
    version = ctypes.c_int(0)
    try:
        failed = load_runtime().cudaRuntimeGetVersion(ctypes.byref(version))
    except RunnerError:
        return 0
    return 0 if failed else version.value


def _told(libraries: Sequence[str], function: str) -> int:
    """What a function without arguments returns."""
    for name in libraries:
        try:
            ask = getattr(ctypes.CDLL(name), function)
        except (OSError, AttributeError):
            continue
        ask.restype = ctypes.c_size_t
        return int(ask())
    return 0


def _dotted(version: int) -> str | None:
    return f"{version // 1000}.{version % 1000 // 10}" if version else None
