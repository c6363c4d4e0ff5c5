"""Arrays as ONNX Runtime's values and back, for the types that NumPy lacks or the runtime cannot bind."""

import ctypes
import math
import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import DType, storage
from service.runtime.providers import CUDA

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
BFLOAT16: Final = 16  # of onnx.TensorProto: NumPy has none


def make_value(array: Array, dtype: DType, provider: str) -> ort.OrtValue:
    """An OrtValue of an array: on the CPU the array itself."""
    if dtype == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array, "cuda" if provider == CUDA else "cpu", 0)


def element_type(dtype: DType) -> Any:
    """How a binding is told the type of an array."""
    return BFLOAT16 if dtype == "bfloat16" else np.dtype(storage(dtype)).type


def copy_of(value: ort.OrtValue) -> Array:
    """A copy of an output that ONNX Runtime allocated."""
    if value.element_type() != BFLOAT16:
        return np.array(value.numpy())
    size = math.prod(value.shape())
    bits = (ctypes.c_uint16 * size).from_address(value.data_ptr()) if size else ()
    return np.array(bits, dtype=np.uint16).reshape(value.shape())


def decoded(array: Array) -> Array:
    """Bytes to text, which is what the runtime takes; they were seen to be UTF-8 at the door."""
    return np.array([element.decode("utf-8") for element in array.flat], dtype=object).reshape(array.shape)


def encoded(array: Array) -> Array:
    """Text to bytes."""
    flat = np.empty(array.size, dtype=object)
    flat[:] = [str(element).encode("utf-8") for element in array.flat]
    return flat.reshape(array.shape)
