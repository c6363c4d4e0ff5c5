"""Copies to a device and back: in host memory for real, on a GPU as calls of a runtime that is not there."""

import ctypes
import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from service.runtime.device.cuda import CudaMemory, load_runtime, open_loaded
from service.runtime.device.gate import GATE
from service.runtime.device.memory import HostMemory, Transfer
from service.runtime.errors import RunnerError, is_device_lost

TO_DEVICE, TO_HOST = 1, 2
ADDRESS = 1 << 20


class FakeRuntime:
    """Writes down what is called, on which thread, and fails at what it is told to."""

    def __init__(self, **failing: int) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: list[int] = []
        self.failing = failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: int) -> int:
            self.calls.append((name, *arguments))
            self.threads.append(threading.get_ident())
            return self.failing.get(name, 0)

        return call

    def cudaMalloc(self, pointer: int, num_bytes: int) -> int:
        self.calls.append(("cudaMalloc", num_bytes))
        ctypes.c_void_p.from_address(pointer).value = ADDRESS
        return self.failing.get("cudaMalloc", 0)

    def cudaGetErrorString(self, code: int) -> bytes:
        return f"what {code} means".encode()

    def cudaMemGetInfo(self, free: int, total: int) -> int:
        ctypes.c_size_t.from_address(free).value, ctypes.c_size_t.from_address(total).value = 7, 9
        return 0


def make(runtime: FakeRuntime, device_id: int = 3) -> CudaMemory:
    return CudaMemory(device_id, runtime)


def test_host_memory_is_copied_to_and_from() -> None:
    memory = HostMemory()
    block = memory.allocate(1000)
    assert block.address % 256 == 0
    sent, got = np.arange(100, dtype=np.uint8), memory.pinned(100)
    memory.download((Transfer.of(block.address, got),))
    assert not got.any()
    memory.upload((Transfer.of(block.address + 50, sent),))
    sent[:] = 0  # it was a copy
    memory.download((Transfer.of(block.address + 60, got[:90]),))
    assert got.tolist() == [*range(10, 100), *[0] * 10]


def test_only_arrays_without_gaps_are_copied() -> None:
    with pytest.raises(AssertionError):
        Transfer.of(0, np.zeros((4, 4))[:, ::2])


def test_copies_to_a_gpu_are_begun_together_and_waited_for_once() -> None:
    runtime = FakeRuntime()
    array = np.arange(10, dtype=np.float32)
    host = array.ctypes.data
    make(runtime).upload((Transfer.of(ADDRESS, array[:4]), Transfer.of(ADDRESS + 64, array[4:])))
    assert runtime.calls == [
        ("cudaSetDevice", 3),
        ("cudaMemcpyAsync", ADDRESS, host, 16, TO_DEVICE, 0),
        ("cudaMemcpyAsync", ADDRESS + 64, host + 16, 24, TO_DEVICE, 0),
        ("cudaStreamSynchronize", 0),
    ]
    runtime.calls.clear()
    make(runtime).download((Transfer.of(ADDRESS, array),))
    assert runtime.calls == [
        ("cudaSetDevice", 3),
        ("cudaMemcpyAsync", host, ADDRESS, 40, TO_HOST, 0),
        ("cudaStreamSynchronize", 0),
    ]


def test_each_thread_says_which_gpu_it_means() -> None:
    runtime = FakeRuntime()
    memory = make(runtime)
    thread = threading.Thread(target=memory.upload, args=((),))
    thread.start()
    thread.join()
    memory.upload(())
    chosen = [at for at, call in zip(runtime.threads, runtime.calls, strict=True) if call == ("cudaSetDevice", 3)]
    assert chosen == [runtime.threads[0], threading.get_ident()] and len(set(chosen)) == 2


@pytest.mark.parametrize(("num_bytes", "taken"), [(500, 500), (0, 1)])
def test_a_block_of_a_gpu_is_zeros_and_goes_back_to_it_when_nobody_holds_it(num_bytes: int, taken: int) -> None:
    runtime = FakeRuntime()
    block = make(runtime).allocate(num_bytes)
    assert (block.address, block.num_bytes) == (ADDRESS, num_bytes)
    assert runtime.calls == [
        ("cudaSetDevice", 3),
        ("cudaMalloc", taken),
        ("cudaMemset", ADDRESS, 0, num_bytes),
        ("cudaStreamSynchronize", 0),
    ]
    runtime.calls.clear()
    kept = block.owner
    del block
    gc.collect()
    assert runtime.calls == []
    del kept
    gc.collect()
    assert runtime.calls == [("cudaSetDevice", 3), ("cudaFree", ADDRESS)]


def test_a_block_that_cannot_be_cleared_is_given_back() -> None:
    runtime = FakeRuntime(cudaMemset=1)
    with pytest.raises(RunnerError):
        make(runtime).allocate(500)
    gc.collect()
    assert runtime.calls[-1] == ("cudaFree", ADDRESS)


def test_nothing_is_given_back_while_somebody_captures() -> None:
    runtime = FakeRuntime()
    memory = make(runtime)
    block, array = memory.allocate(500), memory.pinned(500)
    address = array.ctypes.data
    with GATE.alone():
        runtime.calls.clear()
        del block, array
        gc.collect()
        assert runtime.calls == []
    with GATE.shared():
        assert {call for call in runtime.calls if call[0] != "cudaSetDevice"} == {
            ("cudaFree", ADDRESS),
            ("cudaHostUnregister", address),
        }


def test_pages_are_nobody_elses_until_they_are_unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locked pages that lie in memory which is somebody else's by now could not be locked for that one."""
    made: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    class Runtime(FakeRuntime):
        def cudaHostUnregister(self, address: int) -> int:
            alive.append(made[0]() is not None)
            return 0

    def zeros(*arguments: Any, **keywords: Any) -> Any:
        array = np.empty(*arguments, **keywords)
        made.append(weakref.ref(array))
        return array

    memory = make(Runtime())
    monkeypatch.setattr(np, "zeros", zeros)
    array = memory.pinned(500)
    monkeypatch.undo()
    with GATE.alone():
        del array
        gc.collect()
    with GATE.shared():
        assert alive == [True]
    gc.collect()
    assert made[0]() is None


@pytest.mark.parametrize("num_bytes", [0, 1, 4096, 10_000])
def test_locked_memory_is_whole_pages_until_nobody_holds_it(num_bytes: int) -> None:
    runtime = FakeRuntime()
    array = make(runtime).pinned(num_bytes)
    assert len(array) == num_bytes
    [_, (name, address, size, _)] = runtime.calls
    assert name == "cudaHostRegister"
    assert address % 4096 == 0 and size % 4096 == 0 and size >= num_bytes
    assert array.ctypes.data == address or not num_bytes
    part = array[:0]
    del array
    gc.collect()
    assert ("cudaHostUnregister", address) not in runtime.calls
    del part
    gc.collect()
    assert runtime.calls[-1] == ("cudaHostUnregister", address)


@pytest.mark.parametrize(
    ("function", "act"),
    [
        ("cudaSetDevice", lambda memory: memory.upload(())),
        ("cudaMemcpyAsync", lambda memory: memory.upload((Transfer(1, 2, 3),))),
        ("cudaMemcpyAsync", lambda memory: memory.download((Transfer(1, 2, 3),))),
        ("cudaStreamSynchronize", lambda memory: memory.upload(())),
        ("cudaStreamSynchronize", lambda memory: memory.download(())),
        ("cudaStreamSynchronize", lambda memory: memory.allocate(1)),
        ("cudaMalloc", lambda memory: memory.allocate(1)),
        ("cudaMemset", lambda memory: memory.allocate(1)),
        ("cudaHostRegister", lambda memory: memory.pinned(1)),
    ],
)
def test_whatever_the_gpu_refuses_is_said(function: str, act: Any) -> None:
    memory = make(FakeRuntime(**{function: 700}))
    with pytest.raises(RunnerError, match=f"^{function} on GPU 3: expected success, got 700: what 700 means$"):
        act(memory)


def test_an_error_is_not_left_for_onnx_runtime_to_find() -> None:
    runtime = FakeRuntime(cudaMalloc=2)
    with pytest.raises(RunnerError) as raised:
        make(runtime).allocate(2**60)
    assert runtime.calls[-1] == ("cudaGetLastError",)
    assert not is_device_lost(raised.value)


def test_what_is_free_is_asked_of_the_gpu() -> None:
    assert make(FakeRuntime()).free_bytes() == 7
    assert HostMemory().free_bytes() is None


def library() -> Any:
    functions = ("SetDevice", "Malloc", "Free", "MemcpyAsync", "StreamSynchronize", "Memset", "HostRegister")
    more = ("HostUnregister", "MemGetInfo", "GetLastError", "GetErrorString")
    names = [f"cuda{function}" for function in (*functions, *more)]
    return type("Library", (), {name: type("Function", (), {})() for name in names})()


def nowhere(name: str) -> Any:
    raise OSError(name)


def test_the_runtime_is_found_by_its_names_in_turn() -> None:
    tried = []

    def load(name: str) -> Any:
        tried.append(name)
        return library() if len(tried) == 3 else nowhere(name)

    found = load_runtime(nowhere, load)
    assert tried == ["libcudart.so.13", "libcudart.so.12", "libcudart.so"]
    assert found.cudaMemcpyAsync.argtypes[2] is ctypes.c_size_t  # an int would lose the upper half of an address
    assert found.cudaMalloc.argtypes[1] is ctypes.c_size_t
    assert found.cudaGetErrorString.restype is ctypes.c_char_p


def test_a_runtime_that_is_loaded_is_taken_before_a_newer_one_that_is_not() -> None:
    loaded, newer = library(), library()
    assert load_runtime(lambda name: loaded if name.endswith("12") else nowhere(name), lambda name: newer) is loaded
    assert load_runtime(nowhere, lambda name: newer) is newer


def test_a_library_that_is_not_loaded_is_not_taken_for_one_that_is() -> None:
    name = "libBrokenLocale.so.1"  # of the C library, for programs of the last century
    with pytest.raises(OSError):
        open_loaded(name)
    try:
        loaded = ctypes.CDLL(name)
    except OSError:
        pytest.skip(f"no {name}")
    assert open_loaded(name)._handle == loaded._handle


def test_a_machine_without_the_runtime_is_told_so() -> None:
    with pytest.raises(RunnerError, match=r"expected one of libcudart.so.13, .*, got none of them"):
        load_runtime(nowhere, nowhere)
