"""The memory of an NVIDIA GPU: blocks from ONNX Runtime, copies by the CUDA runtime that it has loaded.

Copies go through the legacy default stream and are waited for, since ONNX Runtime's own streams do not wait for that
one, nor does it for them. A run has come to its end when `run_with_iobinding` returns.

Source: NVIDIA, CUDA Runtime API, https://docs.nvidia.com/cuda/cuda-runtime-api/
"""

import ctypes
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

from service.runtime.device.memory import Block, Bytes, Transfer
from service.runtime.errors import RunnerError

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

_LIBRARIES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_TO_DEVICE: Final = 1  # cudaMemcpyHostToDevice
_TO_HOST: Final = 2  # cudaMemcpyDeviceToHost
_DEFAULT: Final = 0  # stream; flags of cudaHostRegister
_PAGE: Final = 4096  # bytes: what is locked is whole pages, which nobody shares
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cudaSetDevice": (_INT,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaMemset": (_POINTER, _INT, _SIZE),
    "cudaHostRegister": (_POINTER, _SIZE, ctypes.c_uint),
    "cudaHostUnregister": (_POINTER,),
    "cudaMemGetInfo": (_POINTER, _POINTER),
}


def load_runtime(load: Callable[[str], Any] = ctypes.CDLL) -> Any:
    """Find the CUDA runtime, which `onnxruntime.preload_dlls` has loaded if it is there.

    Raises:
        RunnerError: There is none.
    """
    for name in _LIBRARIES:
        try:
            library = load(name)
        except OSError:
            continue
        for function, arguments in _SIGNATURES.items():
            getattr(library, function).argtypes = arguments
        library.cudaGetErrorString.argtypes = (_INT,)
        library.cudaGetErrorString.restype = ctypes.c_char_p
        return library
    raise RunnerError(f"CUDA runtime: expected one of {', '.join(_LIBRARIES)}, got none of them")


def _new_value(num_bytes: int, device_id: int) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_shape_and_type([num_bytes], np.uint8, "cuda", device_id)


class CudaMemory:
    """See the module docstring.

    Args:
        device_id: Which GPU.
        runtime: The CUDA runtime library; None: look for it.
        new_value: Makes an OrtValue of so many bytes on a GPU.

    Raises:
        RunnerError: There is no CUDA runtime.
    """

    name = "cuda"
    captures = True

    def __init__(
        self, device_id: int, runtime: Any = None, new_value: Callable[[int, int], ort.OrtValue] = _new_value
    ) -> None:
        self.device_id = device_id
        self._runtime = load_runtime() if runtime is None else runtime
        self._new_value = new_value

    def allocate(self, num_bytes: int) -> Block:
        """Zeros on the GPU."""
        value = self._new_value(max(num_bytes, 1), self.device_id)
        self._choose()
        self._check("cudaMemset", value.data_ptr(), 0, num_bytes)
        self._check("cudaStreamSynchronize", _DEFAULT)  # it may return before the GPU has done it
        return Block(value.data_ptr(), num_bytes, value)

    def pinned(self, num_bytes: int) -> Bytes:
        """Whole pages, locked in memory until the array is gone."""
        size = max(-(-num_bytes // _PAGE), 1) * _PAGE
        array = np.zeros(size + _PAGE, dtype=np.uint8)
        start = -array.ctypes.data % _PAGE
        address = array.ctypes.data + start
        self._choose()
        self._check("cudaHostRegister", address, size, _DEFAULT)
        # At the end of the process the driver, which may be gone by then, lets go of all pages by itself.
        weakref.finalize(array, self._runtime.cudaHostUnregister, address).atexit = False
        return array[start : start + num_bytes]

    def upload(self, transfers: Iterable[Transfer]) -> None:
        """Copy to the GPU, all at once."""
        self._choose()
        for device, host, num_bytes in transfers:
            self._check("cudaMemcpyAsync", device, host, num_bytes, _TO_DEVICE, _DEFAULT)
        self._check("cudaStreamSynchronize", _DEFAULT)

    def download(self, transfers: Iterable[Transfer]) -> None:
        """Copy from the GPU, all at once."""
        self._choose()
        for device, host, num_bytes in transfers:
            self._check("cudaMemcpyAsync", host, device, num_bytes, _TO_HOST, _DEFAULT)
        self._check("cudaStreamSynchronize", _DEFAULT)

    def free_bytes(self) -> int | None:
        """Bytes of the GPU that are free."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._choose()
        self._check("cudaMemGetInfo", ctypes.addressof(free), ctypes.addressof(total))
        return free.value

    def _choose(self) -> None:
        """Which GPU is meant is a matter of the thread."""
        self._check("cudaSetDevice", self.device_id)

    def _check(self, function: str, *arguments: int) -> None:
        code = getattr(self._runtime, function)(*arguments)
        if code:
            text = self._runtime.cudaGetErrorString(code).decode("ascii", "replace")
            raise RunnerError(f"{function} on GPU {self.device_id}: expected success, got {code}: {text}")
