"""What is said where CUDA does not work, for a driver and libraries that are made up."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import onnxruntime as ort
import pytest

from service.runtime.driver import load_libraries, name_of_gpu, what_is_missing


class FakeDriver:
    """libcuda: statuses that are given, and names of errors."""

    def __init__(self, started: int = 0, counted: int = 0, gpus: int = 1, names: bool = True) -> None:
        self._started, self._counted, self._gpus, self._names = started, counted, gpus, names

    def cuInit(self, flags: int) -> int:
        return self._started

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._gpus
        return self._counted

    def cuGetErrorName(self, status: int, name: Any) -> int:
        if not self._names:
            return 1
        name._obj.value = f"CUDA_ERROR_NO_{status}".encode()
        return 0


@pytest.fixture(autouse=True)
def fresh_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is loaded, and nothing remains of it."""
    severities: list[int] = []
    monkeypatch.setattr(ort, "set_default_logger_severity", severities.append)
    load_libraries.cache_clear()
    yield
    load_libraries.cache_clear()


def set_driver(monkeypatch: pytest.MonkeyPatch, found: FakeDriver) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: found)


def set_preload(monkeypatch: pytest.MonkeyPatch, preload: Callable[[], None]) -> None:
    monkeypatch.setattr(ort, "preload_dlls", preload)


def print_unloadable() -> None:
    print("Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object file")
    print("Failed to load libcurand.so.10: libcurand.so.10: cannot open shared object file")
    print("Please follow https://onnxruntime.ai/docs/install/#cuda-and-cudnn to install CUDA.")


def test_without_a_driver_that_is_what_is_missing_whatever_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", no_such)
    set_preload(monkeypatch, print_unloadable)
    expected = "no NVIDIA driver (libcuda.so.1: cannot open shared object file: No such file or directory)"
    assert what_is_missing() == expected


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (FakeDriver(started=100), "an NVIDIA driver that does not start (CUDA_ERROR_NO_100, CUDA error 100)"),
        (FakeDriver(started=803, names=False), "an NVIDIA driver that does not start (CUDA error 803)"),
        (FakeDriver(gpus=0), "an NVIDIA driver without a GPU"),
        (FakeDriver(counted=3), "an NVIDIA driver without a GPU (CUDA_ERROR_NO_3, CUDA error 3)"),
    ],
)
def test_a_driver_that_has_no_gpu_is_told_with_its_own_error(
    monkeypatch: pytest.MonkeyPatch, found: FakeDriver, told: str
) -> None:
    set_driver(monkeypatch, found)
    set_preload(monkeypatch, lambda: None)
    assert what_is_missing() == told


def test_of_libraries_that_are_missing_the_first_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_driver(monkeypatch, FakeDriver())
    set_preload(monkeypatch, print_unloadable)
    assert what_is_missing() == (
        "no libcublasLt.so.13 (libcublasLt.so.13: cannot open shared object file); "
        "pip install 'carryover[serve-gpu]' brings it"
    )
    assert capsys.readouterr().out == ""


def test_where_all_is_there_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, FakeDriver())
    set_preload(monkeypatch, lambda: None)
    assert what_is_missing() is None


def test_libraries_are_loaded_once_and_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, severities = list[int](), list[int]()
    monkeypatch.setattr(ort, "set_default_logger_severity", severities.append)
    set_preload(monkeypatch, lambda: loaded.append(1) or print_unloadable())  # type: ignore[func-returns-value]
    assert load_libraries() == load_libraries()
    assert "libcurand.so.10" in load_libraries()
    assert (loaded, severities) == ([1], [4])
    assert capsys.readouterr() == ("", "")


def test_a_gpu_is_called_what_the_driver_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(FakeDriver):
        def cuDeviceGet(self, device: Any, number: int) -> int:
            device._obj.value = 10 + number
            return 0 if number < 2 else 101

        def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
            name.value = f"NVIDIA H{device.value}"[: size - 1].encode()
            return 0

    set_driver(monkeypatch, Named())
    assert [name_of_gpu(number) for number in range(3)] == ["NVIDIA H10", "NVIDIA H11", None]
    set_driver(monkeypatch, Named(started=100))
    assert name_of_gpu(0) is None


def test_without_a_driver_no_gpu_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_such)
    assert name_of_gpu(0) is None
