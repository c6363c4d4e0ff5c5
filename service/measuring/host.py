"""What is measured of a model on a host is kept beside it: in the bundle's folder, a file for each kind of host."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import tempfile
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel

from export.manifest import Manifest
from service.runtime.driver import name_of_gpu

FOLDER: Final = "host-profiles"
_READABLE: Final = 0o644  # mode of files: by other accounts, too
_WITHOUT_CARDS: Final = ("CPUExecutionProvider", "cpu")


class HowRun(Protocol):
    """What of `service.runtime.runner.RunnerConfig` figures depend on."""

    @property
    def threads(self) -> int:
        """Intra-op threads of each run."""

    @property
    def tf32(self) -> bool:
        """Whether a GPU rounds factors."""

    @property
    def cuda_graphs(self) -> bool:
        """Whether a GPU replays captured launches."""

    @property
    def device_id(self) -> int:
        """Which GPU."""


def describe_host(provider: str, config: HowRun, gpu: str | None = None) -> str:
    """Say what figures are true of.

    Args:
        provider: Of ONNX Runtime, or as the settings ask for one. What is said of the CPU says nothing of GPUs.
        config: How models are run.
        gpu: What the driver calls the GPU; None: ask it.
    """
    on_gpu: tuple[str, ...] = ()
    if provider not in _WITHOUT_CARDS:
        name = gpu or name_of_gpu(config.device_id) or "no GPU"
        on_gpu = name, f"tf32 {config.tf32}", f"CUDA graphs {config.cuda_graphs}"
    return ", ".join(
        (
            _processor(),
            f"{os.cpu_count()} cores",
            f"onnxruntime {_runtime_version()}",
            provider,
            f"{config.threads} threads",
            *on_gpu,
        )
    )


def _processor() -> str:
    """The model of the processor as exactly as the system tells it."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    found = [re.search(rf"^{name}\s*: (.*)$", told, re.MULTILINE) for name in ("model name", "cpu family", "model")]
    flags = re.search(r"^flags\s*: (.*)$", told, re.MULTILINE)
    digest = hashlib.sha256(" ".join(sorted(flags[1].split())).encode()).hexdigest()[:8] if flags else ""
    return " ".join([match[1].strip() for match in found if match] + [digest]).strip() or platform.machine()


def _runtime_version() -> str:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def key(host: str, manifest: Manifest) -> str:
    """Name what was measured of a bundle's files, as they are run, on a host."""
    files = {name: entry.sha256 for name, entry in sorted(manifest.files.items())}
    # Of the graphs as they are nothing is said: what was measured before there were variants stays true.
    run = [graph.file for _, graph in sorted(manifest.graphs.items()) if graph.file in graph.variants.values()]
    return hashlib.sha256(json.dumps([host, files, *([run] if run else [])]).encode()).hexdigest()[:16]


def write(path: Path, profile: BaseModel) -> None:
    """Write so that whoever reads meanwhile sees all or nothing.

    Raises:
        OSError: It cannot be written, and nothing is left behind.
    """
    path.parent.mkdir(exist_ok=True)
    # Its number is not enough to tell a process by: in a container of its own each is the first.
    file, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(file, "w", encoding="utf-8") as opened:
            os.fchmod(file, _READABLE)
            opened.write(profile.model_dump_json(indent=2) + "\n")
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
