"""A bundle opened as this script needs it: the one place that knows how the service's runner is made and asked.

On a processor, in a trial of the script, the path for cards is walked too: its device is then memory of the host.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from bench.gpu.models import manifest_of
from export.manifest import GraphKind, Variant, with_variant
from service.runtime.device.cuda import CudaMemory
from service.runtime.device.memory import Block, Bytes, DeviceMemory, HostMemory, Transfer
from service.runtime.providers import CPU
from service.runtime.runner import Runner, RunnerConfig

Array = npt.NDArray[Any]


@dataclass
class Traffic:
    """Bytes that went over.

    Args:
        uploaded: To the device.
        downloaded: From it.
    """

    uploaded: int = 0
    downloaded: int = 0

    def clear(self) -> None:
        """Begin anew."""
        self.uploaded = self.downloaded = 0


class CountedMemory:
    """A memory of a device that counts what is copied to it and from it, and is else the one that it is made of."""

    def __init__(self, memory: DeviceMemory, traffic: Traffic) -> None:
        self._memory, self._traffic = memory, traffic

    @property
    def name(self) -> str:
        """As the memory's."""
        return self._memory.name

    @property
    def device_id(self) -> int:
        """As the memory's."""
        return self._memory.device_id

    @property
    def captures(self) -> bool:
        """As the memory's."""
        return self._memory.captures

    def allocate(self, num_bytes: int) -> Block:
        """As the memory's."""
        return self._memory.allocate(num_bytes)

    def pinned(self, num_bytes: int) -> Bytes:
        """As the memory's."""
        return self._memory.pinned(num_bytes)

    def upload(self, transfers: Iterable[Transfer]) -> None:
        """As the memory's, counted."""
        chosen = list(transfers)
        self._traffic.uploaded += sum(one.num_bytes for one in chosen)
        self._memory.upload(chosen)

    def download(self, transfers: Iterable[Transfer]) -> None:
        """As the memory's, counted."""
        chosen = list(transfers)
        self._traffic.downloaded += sum(one.num_bytes for one in chosen)
        self._memory.download(chosen)

    def free_bytes(self) -> int | None:
        """As the memory's."""
        return self._memory.free_bytes()


@dataclass(frozen=True)
class Opened:
    """A runner.

    Args:
        runner: The service's.
        traffic: Between host and device, since it was opened.
    """

    runner: Runner
    traffic: Traffic

    def run(self, kind: GraphKind, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a graph once; what it gives is a copy, which stays."""
        return {name: array.copy() for name, array in self.runner.run(kind, inputs, outputs).items()}

    def captured(self, rows: int) -> str:
        """Whether a step of so many rows is replayed from a graph that was captured."""
        return "yes" if any(one >= rows for one in self.runner.captured.get("step", ())) else "no"

    def captured_rows(self) -> str:
        """Rows for which steps are captured."""
        return ", ".join(str(rows) for rows in self.runner.captured.get("step", ())) or "none"


@contextmanager
def open_bundle(
    folder: Path,
    provider: str,
    slots: int,
    memory_rows: int = 16,
    cuda_graphs: bool = True,
    step_alone: bool = False,
    counted: bool = False,
    variant: Variant | None = None,
    max_rows: int = 0,
) -> Iterator[Opened]:
    """Open a bundle on the provider that is shown, its state on the device.

    Args:
        folder: The bundle.
        provider: Of ONNX Runtime.
        slots: Rows of the state pools.
        memory_rows: Rows of the attention memory.
        cuda_graphs: Whether step graphs are captured.
        step_alone: Whether no other graph is wanted.
        counted: Whether traffic is counted, which costs some time.
        variant: Of the step; None: the graphs as they are.
        max_rows: Of a batch whose step is captured; 0: as many as there are slots.
    """
    manifest = with_variant(manifest_of(folder), variant)
    if step_alone:
        manifest = manifest.model_copy(update={"graphs": {"step": manifest.graphs["step"]}})
    config = RunnerConfig(
        num_slots=max(3, slots), num_memory_rows=memory_rows, cuda_graphs=cuda_graphs, max_rows=max_rows
    )
    memory: DeviceMemory = HostMemory() if provider == CPU else CudaMemory(config.device_id)
    traffic = Traffic()
    if counted:
        memory = CountedMemory(memory, traffic)
    runner = Runner(folder, manifest, config, provider, memory=memory)
    try:
        yield Opened(runner, traffic)
    finally:
        runner.close()


@contextmanager
def open_plain(folder: Path, slots: int, memory_rows: int = 16) -> Iterator[Opened]:
    """Open a bundle on the processor, the way it is served there."""
    config = RunnerConfig(provider="cpu", num_slots=max(3, slots), num_memory_rows=memory_rows)
    runner = Runner(folder, manifest_of(folder), config, CPU)
    try:
        yield Opened(runner, Traffic())
    finally:
        runner.close()
