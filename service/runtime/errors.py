"""What can be wrong with running a bundle here.

RunnerError
  ProviderUnavailable   of the machine, whatever the bundle
  OutOfDeviceMemory     of this bundle with these settings
  DeviceFailure         of a call of the CUDA runtime
RunEnded
"""

import re
from typing import Final

_CUDA_FAILURE: Final = re.compile(r"CUDA failure (\d+): [^;]*[^;\s]")
_ARENA: Final = re.compile(r"Failed to allocate memory for requested buffer of size (\d+)")
# Of cudaError_t: those after which "the process must be terminated and relaunched", and those of a GPU that is gone.
# Source: NVIDIA, CUDA Runtime API, https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html
_LASTING: Final = frozenset({4, 100, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999})
_NO_MEMORY: Final = (
    "out of memory",
    "cudaErrorMemoryAllocation",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class RunnerError(Exception):
    """A bundle cannot be run here, or a run was asked for wrongly; says expected and got."""


class ProviderUnavailable(RunnerError):
    """CUDA was insisted on and is not there, whatever the bundle.

    Args:
        expected: What would have done.
        got: What there is.
    """

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"provider cuda: expected {expected}, got {got}")
        self.got = got


class OutOfDeviceMemory(RunnerError):
    """A bundle does not fit into the memory of the GPU with the pools that the settings want."""


class DeviceFailure(RunnerError):
    """A call of the CUDA runtime failed.

    Args:
        function: Which.
        device_id: The GPU.
        code: Its `cudaError_t`.
        text: What CUDA says of that.
    """

    def __init__(self, function: str, device_id: int, code: int, text: str) -> None:
        super().__init__(f"{function} on GPU {device_id}: expected success, got {code}: {text}")
        self.code = code


class RunEnded(Exception):
    """A run was ended from outside."""


def first_line(error: BaseException) -> str:
    """What an operator reads of an error of ONNX Runtime, which may run over many lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def cause(error: BaseException) -> str:
    """What an operator reads of an error on a GPU, whose first line is full of C++ signatures."""
    text = str(error)
    if found := _CUDA_FAILURE.search(text):
        return found[0]
    if found := _ARENA.search(text):
        return f"no {found[1]} bytes in one piece"
    return first_line(error)


def is_device_lost(error: BaseException) -> bool:
    """Whether an error of CUDA stays: whatever this process asks of the GPU from now on fails with it.

    cuBLAS and cuDNN have codes of their own, which do not tell; the next copy then does.
    """
    if isinstance(error, DeviceFailure):
        return error.code in _LASTING
    found = _CUDA_FAILURE.search(str(error))
    return found is not None and int(found[1]) in _LASTING


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU had too little memory; ONNX Runtime has no type for that."""
    text = str(error)
    return any(sign in text for sign in _NO_MEMORY) or _ARENA.search(text) is not None
