"""Weights that a model keeps in other files: refused, or read from inside the model's own folder.

No library's loader is used: where a file may lie, what it may be and how much of it is read is decided here, once.
"""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Final

import onnx
from onnx import TensorProto

from importing.errors import ImportRefused
from importing.reading.sizes import BITS, num_bytes
from importing.reading.walk import tensors
from importing.reading.words import quote

_KEYS: Final = frozenset({"location", "offset", "length", "checksum", "basepath"})


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors whose data is elsewhere."""
    return [
        tensor for tensor in tensors(model) if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data)
    ]


def external_files(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the files that a model keeps data in, as it names them, each once."""
    return tuple(dict.fromkeys(_entries(tensor)["location"] for tensor in external_tensors(model)))


def load_external(model: onnx.ModelProto, folder: Path, allow: bool, max_bytes: int) -> None:
    """Read the data of a model's tensors into it.

    Args:
        model: Changed: afterwards nothing of it is elsewhere.
        folder: The model's, which no file may lie outside of.
        allow: Whether there may be such tensors at all.
        max_bytes: Of all the data together.

    Raises:
        ImportRefused: It is not allowed, or a file is missing, outside the folder, no regular file or too short.
    """
    found = external_tensors(model)
    if not found:
        return
    if not allow:
        files = external_files(model)
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise ImportRefused(
            f"external data: it keeps weights in {quote(files[0])}{more}, refused unless allowed (--allow-external)"
        )
    left = max_bytes
    for tensor in found:
        if tensor.data_type not in BITS:
            raise ImportRefused(f"tensor {quote(tensor.name)}: expected elements of a fixed size, got strings")
        data = _read(tensor, folder, left)
        left -= len(data)
        tensor.raw_data = data
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _read(tensor: onnx.TensorProto, folder: Path, most: int) -> bytes:
    entries = _entries(tensor)
    location = entries["location"]
    what = f"external data of tensor {quote(tensor.name)}"
    path = _resolve(folder, location, what)
    offset, expected = _number(entries, "offset", 0, what), num_bytes(tensor)
    length = _number(entries, "length", expected, what)
    if length != expected:
        raise ImportRefused(f"{what}: expected {expected} bytes for shape {quote(list(tensor.dims))}, got {length}")
    if length > most:
        raise ImportRefused(f"{what}: expected a model of less than 2 GiB with its data, got more")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise ImportRefused(f"{what}: expected a file that can be read, got: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImportRefused(f"{what}: expected a regular file, got {quote(location)}")
        if offset + length > status.st_size:
            raise ImportRefused(f"{what}: expected {offset + length} bytes of {quote(location)}, got {status.st_size}")
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise ImportRefused(f"{what}: expected {length} bytes of {quote(location)}, got {len(data)}")
    return data


def _resolve(folder: Path, location: str, what: str) -> Path:
    """Find a file by a name that comes out of a model, links followed, inside the model's folder."""
    pure = PurePosixPath(location)
    if not location or "\0" in location or "\\" in location or pure.is_absolute() or ".." in pure.parts:
        raise ImportRefused(f"{what}: expected a path inside the model's folder, got {quote(location)}")
    root = folder.resolve()
    try:
        path = (root / pure).resolve(strict=True)
    except FileNotFoundError:
        raise ImportRefused(f"{what}: expected the file {quote(location)}, got nothing there") from None
    except (OSError, RuntimeError):  # too long a name, or links in a circle
        raise ImportRefused(f"{what}: expected a file that can be found, got {quote(location)}") from None
    if not path.is_relative_to(root):
        raise ImportRefused(f"{what}: expected a path inside the model's folder, got a link out of it")
    if not path.is_file():
        raise ImportRefused(f"{what}: expected a regular file, got {quote(location)}")
    return path


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    what = f"external data of tensor {quote(tensor.name)}"
    if len(entries) != len(tensor.external_data):
        raise ImportRefused(f"{what}: expected each key once, got {quote([e.key for e in tensor.external_data])}")
    if unknown := entries.keys() - _KEYS:
        raise ImportRefused(f"{what}: expected {sorted(_KEYS)}, got {quote(sorted(unknown))}")
    if "location" not in entries or entries.get("basepath"):
        raise ImportRefused(f"{what}: expected a location and no base path, got {quote(entries)}")
    return entries


def _number(entries: dict[str, str], key: str, default: int, what: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ImportRefused(f"{what}: expected a number of bytes as {key}, got {quote(text)}")
    return int(text)
