"""Get the bytes of a file that may be anything, and say what they are where they are no model.

A model file is one protobuf message, `onnx.ModelProto`, without a header. Its top-level fields are walked here before
any parser sees them, because a parser can only say that it failed.
"""

import os
import stat
from pathlib import Path
from typing import Final

from importing.errors import ImportRefused

# Numbers of the fields of onnx.ModelProto and the wire types that they have. Source: onnx/onnx.proto.
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIELDS: Final = {
    1: _VARINT,  # ir_version
    2: _LENGTH,  # producer_name
    3: _LENGTH,  # producer_version
    4: _LENGTH,  # domain
    5: _VARINT,  # model_version
    6: _LENGTH,  # doc_string
    7: _LENGTH,  # graph
    8: _LENGTH,  # opset_import
    14: _LENGTH,  # metadata_props
    20: _LENGTH,  # training_info
    25: _LENGTH,  # functions
    26: _LENGTH,  # configuration
}
_GRAPH: Final = 7
_MAX_VARINT_BYTES: Final = 10

# What people hand over instead of a model: where in the file, what is there, what it is.
_OTHER_FORMATS: Final = (
    (0, b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (0, b"PK\x03\x04", "a zip archive (a PyTorch or Keras checkpoint?)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (a Keras checkpoint?)"),
    (0, b"\x1f\x8b", "gzip-compressed data: unpack it first"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"\x80\x03", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x7fELF", "a program"),
    (4, b"ORTM", "a model in ONNX Runtime's own format: give the ONNX file that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model"),
)


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a whole regular file of a bounded size.

    Opening never waits, as it would for a pipe, and what was opened is what is checked.

    Raises:
        ImportRefused: There is no such file, it is no regular file, it is empty, too large or may not be read.
    """
    try:
        # Asked before it is opened too: opening some devices does something.
        _check_regular(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ImportRefused(f"{path}: expected an ONNX file, got nothing there") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImportRefused(f"{path}: expected a file that can be read, got: {reason}") from None
    try:
        status = os.fstat(descriptor)
        _check_regular(path, status)
        if status.st_size > max_bytes:
            raise ImportRefused(f"{path}: size: expected at most {max_bytes} bytes, got {status.st_size}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(status.st_size + 1)
    finally:
        os.close(descriptor)
    if len(content) != status.st_size:
        raise ImportRefused(f"{path}: expected a file that stays as it is, got one that changes while it is read")
    if not content:
        raise ImportRefused(f"{path}: expected an ONNX file, got an empty one")
    return content


def check_wire(content: bytes) -> None:
    """Check that the bytes are the fields of an `onnx.ModelProto`, whole ones, with a graph.

    Raises:
        ImportRefused: They are something else, or cut short.
    """
    for offset, magic, meaning in _OTHER_FORMATS:
        if content.startswith(magic, offset):
            raise ImportRefused(f"not an ONNX model: {meaning}")
    position = 0
    graphs = 0
    while position < len(content):
        start = position
        tag, position = _varint(content, position)
        number, wire_type = tag >> 3, tag & 7
        if _FIELDS.get(number, wire_type) != wire_type or number == 0 or wire_type not in (0, 1, 2, 5):
            raise ImportRefused(f"not an ONNX model: field {number} of wire type {wire_type} at byte {start}")
        size = 0
        if wire_type == _VARINT:
            _, position = _varint(content, position)
        elif wire_type == _LENGTH:
            size, position = _varint(content, position)
        else:
            size = 8 if wire_type == _FIXED64 else 4
        if size > len(content) - position:
            # Text and noise start with what looks like a field too; a model's first one is short.
            what = "truncated" if number in _FIELDS and (graphs or number == _GRAPH or start) else "not an ONNX model"
            left = len(content) - position
            raise ImportRefused(f"{what}: field {number} at byte {start} declares {size} bytes, {left} are left")
        position += size
        graphs += number == _GRAPH
    if graphs != 1:
        raise ImportRefused(f"not an ONNX model: expected one graph, got {graphs}")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Read a base-128 number and say where it ends."""
    value = 0
    for index, byte in enumerate(content[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    if len(content) - position < _MAX_VARINT_BYTES:
        raise ImportRefused(f"truncated: it ends within a number at byte {position}")
    raise ImportRefused(f"not an ONNX model: no number at byte {position}")


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImportRefused(f"{path}: expected a regular file, got {_describe(status.st_mode)}")


def _describe(mode: int) -> str:
    for kind, holds in (
        ("a folder", stat.S_ISDIR),
        ("a FIFO", stat.S_ISFIFO),
        ("a socket", stat.S_ISSOCK),
        ("a device", stat.S_ISCHR),
        ("a device", stat.S_ISBLK),
    ):
        if holds(mode):
            return kind
    return "something else"
