"""What CUDA needs of the machine, and what of it is missing: ONNX Runtime only says that it could not start.

The libraries come with the Python packages of the `serve-gpu` extra; the driver, which knows the GPUs, is the host's.
"""

import contextlib
import ctypes
import functools
import io
import os
import re

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

_DRIVER = "libcuda.so.1"
_SILENT = 4  # severities below fatal
_UNLOADABLE = re.compile(r"^Failed to load (\S+): (.*)$", re.MULTILINE)


@functools.cache
def load_libraries() -> str:
    """Load CUDA and cuDNN from where pip has put them; once a process.

    ONNX Runtime prints what it cannot load, several lines on standard output, which is not its own. Its log of the
    process, several lines more for each graph, is silenced: what they say is told once, by `what_is_missing`.

    Returns:
        What it printed; nothing is good.
    """
    ort.set_default_logger_severity(_SILENT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    return printed.getvalue()


def what_is_missing() -> str | None:
    """Say in a few words why CUDA cannot work on this machine; None where it should."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        return f"no NVIDIA driver ({error})"
    if status := driver.cuInit(0):
        return f"an NVIDIA driver that does not start ({_name_of(driver, status)})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status or count.value < 1:
        return f"an NVIDIA driver without a GPU{f' ({_name_of(driver, status)})' if status else ''}"
    if unloadable := _UNLOADABLE.search(load_libraries()):
        return f"no {unloadable[1]} ({unloadable[2]}); pip install 'carryover[serve-gpu]' brings it"
    return None


def _name_of(driver: ctypes.CDLL, status: int) -> str:
    """What the driver calls an error."""
    name = ctypes.c_char_p()
    if driver.cuGetErrorName(status, ctypes.byref(name)) or name.value is None:
        return f"CUDA error {status}"
    return f"{name.value.decode(errors='replace')}, CUDA error {status}"


def name_of_gpu(device_id: int) -> str | None:
    """What the driver calls a GPU; None where it is not there, or no driver is.

    Args:
        device_id: Counted from 0.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), device_id):
        return None
    if driver.cuDeviceGetName(name, len(name), device):
        return None
    return name.value.decode(errors="replace")
