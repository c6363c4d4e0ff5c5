"""The memory of an NVIDIA GPU: blocks and copies by the CUDA runtime that ONNX Runtime has loaded.

Blocks are the GPU's own and go back to it. Those of ONNX Runtime come from an arena of the whole process, which takes
up to twice as much as it is asked for and keeps it when a model is unloaded.

Copies go through the legacy default stream and are waited for, since ONNX Runtime's own streams do not wait for that
one, nor does it for them. A run has come to its end when `run_with_iobinding` returns.

What nobody holds any more is given back inside the gate (see `gate.py`): a free would spoil a capture elsewhere.

Source: NVIDIA, CUDA Runtime API, https://docs.nvidia.com/cuda/cuda-runtime-api/
"""

import ctypes
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import numpy as np

from service.runtime.device.gate import GATE
from service.runtime.device.memory import Block, Bytes, Transfer
from service.runtime.errors import DeviceFailure, RunnerError

LIBRARIES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")  # the names of the CUDA runtime
_TO_DEVICE: Final = 1  # cudaMemcpyHostToDevice
_TO_HOST: Final = 2  # cudaMemcpyDeviceToHost
_OUT_OF_MEMORY: Final = 2  # cudaErrorMemoryAllocation
_DEFAULT: Final = 0  # stream; flags of cudaHostRegister
_PAGE: Final = 4096  # bytes: what is locked is whole pages, which nobody shares
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cudaSetDevice": (_INT,),
    "cudaMalloc": (_POINTER, _SIZE),
    "cudaFree": (_POINTER,),
    "cudaMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "cudaStreamSynchronize": (_POINTER,),
    "cudaMemset": (_POINTER, _INT, _SIZE),
    "cudaHostRegister": (_POINTER, _SIZE, ctypes.c_uint),
    "cudaHostUnregister": (_POINTER,),
    "cudaMemGetInfo": (_POINTER, _POINTER),
    "cudaGetLastError": (),
}


def open_loaded(name: str) -> Any:
    """Open a library by its name if the process has loaded it, or raise OSError."""
    return ctypes.CDLL(name, mode=os.RTLD_NOLOAD)


def load_runtime(open_loaded: Callable[[str], Any] = open_loaded, load: Callable[[str], Any] = ctypes.CDLL) -> Any:
    """Find the CUDA runtime, first of all the one that `onnxruntime.preload_dlls` has loaded.

    A machine may have several; memory of another one than ONNX Runtime's would be of no use to it.

    Args:
        open_loaded: Opens a library by its name if the process has loaded it, or raises OSError.
        load: Opens a library by its name, or raises OSError.

    Raises:
        RunnerError: There is none.
    """
    for find in (open_loaded, load):
        for name in LIBRARIES:
            try:
                library = find(name)
            except OSError:
                continue
            for function, arguments in _SIGNATURES.items():
                getattr(library, function).argtypes = arguments
            library.cudaGetErrorString.argtypes = (_INT,)
            library.cudaGetErrorString.restype = ctypes.c_char_p
            return library
    raise RunnerError(f"CUDA runtime: expected one of {', '.join(LIBRARIES)}, got none of them")


class _Held:
    """What a block, or an array of locked memory, keeps alive; when nobody holds it an action follows in the gate."""

    def __init__(self, action: Callable[[], object]) -> None:
        # At the end of the process the driver, which may be gone by then, lets go of all of it by itself.
        weakref.finalize(self, GATE.later, action).atexit = False


class _Locked(_Held):
    """Bytes, page-locked: numpy asks `__array_interface__`, and an array that is made of this holds it."""

    def __init__(self, address: int, num_bytes: int, action: Callable[[], object]) -> None:
        super().__init__(action)
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (num_bytes,), "data": (address, False)}


class CudaMemory:
    """See the module docstring.

    Args:
        device_id: Which GPU.
        runtime: The CUDA runtime library; None: look for it.

    Raises:
        RunnerError: There is no CUDA runtime.
    """

    name = "cuda"
    captures = True

    def __init__(self, device_id: int, runtime: Any = None) -> None:
        self.device_id = device_id
        self._runtime = load_runtime() if runtime is None else runtime

    def allocate(self, num_bytes: int) -> Block:
        """Zeros on the GPU."""
        pointer = ctypes.c_void_p()
        self._choose()
        self._check("cudaMalloc", ctypes.addressof(pointer), max(num_bytes, 1))
        address = pointer.value or 0
        held = _Held(partial(self._free, address))
        self._check("cudaMemset", address, 0, num_bytes)
        self._check("cudaStreamSynchronize", _DEFAULT)  # it may return before the GPU has done it
        return Block(address, num_bytes, held)

    def pinned(self, num_bytes: int) -> Bytes:
        """Whole pages, locked in memory until the array is gone."""
        size = max(-(-num_bytes // _PAGE), 1) * _PAGE
        pages = np.zeros(size + _PAGE, dtype=np.uint8)
        address = pages.ctypes.data + -pages.ctypes.data % _PAGE
        self._choose()
        self._check("cudaHostRegister", address, size, _DEFAULT)
        # The pages outlive the array until they are unlocked: others may not get them before.
        return np.asarray(_Locked(address, num_bytes, partial(self._unlock, address, pages)))

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

    def _free(self, address: int) -> None:
        self._choose()
        self._check("cudaFree", address)

    def _unlock(self, address: int, pages: Bytes) -> None:
        self._choose()
        self._check("cudaHostUnregister", address)

    def _choose(self) -> None:
        """Which GPU is meant is a matter of the thread."""
        self._check("cudaSetDevice", self.device_id)

    def _check(self, function: str, *arguments: int) -> None:
        code = getattr(self._runtime, function)(*arguments)
        if code:
            # CUDA keeps the error of a call for whoever asks next: ONNX Runtime, which would take it for its own.
            self._runtime.cudaGetLastError()
            text = self._runtime.cudaGetErrorString(code).decode("ascii", "replace")
            raise DeviceFailure(function, self.device_id, code, text)
