"""A device that is far away, in simulation: what a GPU and ONNX Runtime on it do with memory, done on the CPU.

As CUDA has it: memory of the host that is bound as an input is copied when it is bound, and never again, unless the
graph wants that input on the host. A captured run does what it did, to the addresses that it had, whatever is bound;
capturing runs the graph several times, and is for the thread that does it: another captures for itself.
"""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from export.manifest import Manifest
from service.runtime import runner as runner_module
from service.runtime.device.memory import Block, HostMemory, Transfer
from service.runtime.providers import CPU, open_session
from service.runtime.runner import Runner, RunnerConfig

FAR = "far"
CAPTURING_RUNS = 3
CONFIG = RunnerConfig("cpu", 1, 16, 32)


class FarMemory(HostMemory):
    """Knows its blocks, and counts what moves."""

    name = FAR
    captures = True

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.uploads: list[list[Transfer]] = []
        self.downloads: list[list[Transfer]] = []
        self.left: list[int] = []  # what is said to be free, in turn

    def allocate(self, num_bytes: int) -> Block:
        block = super().allocate(num_bytes)
        assert block.address % 256 == 0
        self.blocks.append(block)
        return block

    def holds(self, address: int, num_bytes: int) -> bool:
        """Whether all of it lies in a block."""
        return any(
            block.address <= address and address + num_bytes <= block.address + block.num_bytes for block in self.blocks
        )

    def upload(self, transfers: Iterable[Transfer]) -> None:
        self.uploads.append(list(transfers))
        assert all(self.holds(transfer.device, transfer.num_bytes) for transfer in self.uploads[-1])
        super().upload(self.uploads[-1])

    def download(self, transfers: Iterable[Transfer]) -> None:
        self.downloads.append(list(transfers))
        assert all(self.holds(transfer.device, transfer.num_bytes) for transfer in self.downloads[-1])
        super().download(self.downloads[-1])

    def free_bytes(self) -> int | None:
        return self.left.pop(0) if self.left else None

    def forget(self) -> None:
        """Begin to count anew."""
        self.uploads.clear()
        self.downloads.clear()


class FarBinding:
    """Bindings of a session on the far device."""

    def __init__(self, session: "FarSession") -> None:
        self._session = session
        self.real = session.real.io_binding()
        self.addresses: dict[str, int] = {}
        self._copies: dict[str, Any] = {}

    def bind_input(self, name: str, kind: str, device_id: int, element: Any, shape: Sequence[int], at: int) -> None:
        dtype = np.dtype(np.uint16) if isinstance(element, int) else np.dtype(element)
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        if kind == FAR:
            assert self._session.memory.holds(at, num_bytes), f"{name} is not on the device"
            assert name not in self._session.host_inputs, f"{name} would be copied to the host now, and never again"
        elif name not in self._session.host_inputs:
            copy = np.empty(num_bytes, dtype=np.uint8)
            HostMemory().download((Transfer(at, copy.ctypes.data, num_bytes),))
            self._copies[name], at = copy, copy.ctypes.data
        self.addresses[name] = at
        self.real.bind_input(name, "cpu", 0, element, shape, at)

    def bind_cpu_input(self, name: str, array: npt.NDArray[Any]) -> None:
        self.real.bind_cpu_input(name, array.copy())
        self.addresses[name] = array.ctypes.data

    def bind_output(
        self,
        name: str,
        kind: str = "cpu",
        device_id: int = 0,
        element: Any = None,
        shape: Sequence[int] | None = None,
        at: int | None = None,
    ) -> None:
        assert kind == "cpu" or (at is not None and self._session.memory.holds(at, 1)), f"{name} is not on the device"
        self.real.bind_output(name, "cpu", 0, element, shape, at)
        self.addresses[name] = at or 0

    def get_outputs(self) -> list[ort.OrtValue]:
        return list(self.real.get_outputs())


class FarSession:
    """A session on the far device, around one on the CPU."""

    def __init__(self, real: ort.InferenceSession, memory: FarMemory, captures: bool = False) -> None:
        self.real, self.memory, self.captures = real, memory, captures
        self.host_inputs: set[str] = set()
        self._threads = threading.local()
        self.runs: list[tuple[str, FarBinding]] = []  # graph id, binding
        self.refuses_to_capture = False

    @property
    def captured(self) -> dict[str, tuple[FarBinding, dict[str, int]]]:
        """By graph id, what the calling thread captured and the addresses at that time."""
        if not hasattr(self._threads, "captured"):
            self._threads.captured = {}
        captured: dict[str, tuple[FarBinding, dict[str, int]]] = self._threads.captured
        return captured

    def io_binding(self) -> FarBinding:
        return FarBinding(self)

    def get_input_memory_infos(self) -> list[SimpleNamespace]:
        names = [tensor.name for tensor in self.real.get_inputs()]
        return [SimpleNamespace(name="Cpu" if name in self.host_inputs else "Far") for name in names]

    def run_with_iobinding(self, binding: FarBinding, options: ort.RunOptions | None = None) -> None:
        assert options is not None
        graph_id = options.get_run_config_entry("gpu_graph_id")
        self.runs.append((graph_id, binding))
        if graph_id == "-1":
            self.real.run_with_iobinding(binding.real, options)
            return
        assert self.captures, "this session was not opened for it"
        if self.refuses_to_capture and graph_id not in self.captured:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        if graph_id not in self.captured:
            self.captured[graph_id] = binding, dict(binding.addresses)
            for _ in range(CAPTURING_RUNS):
                self.real.run_with_iobinding(binding.real, options)
            return
        replayed, addresses = self.captured[graph_id]
        assert binding.addresses == addresses
        self.real.run_with_iobinding(replayed.real, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Far:
    """What was opened on the far device."""

    def __init__(self, memory: FarMemory | None = None) -> None:
        self.memory = memory or FarMemory()
        self.sessions: list[FarSession] = []
        self.refuses_sessions = False  # that capture
        self.refuses_to_capture = False
        self.host_inputs: set[str] = set()

    def open_session(self, path: Path, provider: str, threads: int, **options: Any) -> FarSession:
        if options["cuda_graphs"] and self.refuses_sessions:
            raise RuntimeError("This session cannot use the graph capture feature\nas requested by the user")
        session = FarSession(open_session(path, provider, threads), self.memory, options["cuda_graphs"])
        session.refuses_to_capture = self.refuses_to_capture
        session.host_inputs = {t.name for t in session.real.get_inputs()} & self.host_inputs
        self.sessions.append(session)
        return session

    def open(self, folder: Path, manifest: Manifest, config: RunnerConfig = CONFIG) -> Runner:
        """Open a bundle there."""
        with mock.patch.object(runner_module, "open_session", self.open_session):
            return Runner(folder, manifest, config, CPU, memory=self.memory)

    def step(self) -> FarSession:
        """The session of the last step graph that was opened."""
        [*_, last] = [s for s in self.sessions if "read_slots" in {tensor.name for tensor in s.real.get_inputs()}]
        return last
