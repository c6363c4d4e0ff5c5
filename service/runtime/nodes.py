"""The nodes of an ONNX file: what they are called, what they read and how they are set.

ONNX Runtime tells where a node runs, but not what it is; and the package onnx, which could, is none of the service's.
Of the file's protobuf only the fields below are read, so that weights are passed over where they lie.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from service.runtime.errors import RunnerError

Setting = int | float | str | tuple[str, ...] | tuple[float, ...]
_MOST_DEPTH: Final = 64  # of bodies within bodies
_LOOPS: Final = frozenset({"Scan", "Loop"})
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_GRAPH, _FUNCTIONS = 7, 25  # of a ModelProto
_NODES, _FUNCTION_NODES = 1, 7  # of a GraphProto, of a FunctionProto
_INPUT, _OUTPUT, _NAME, _OP_TYPE, _ATTRIBUTE = 1, 2, 3, 4, 5  # of a NodeProto
_KEY, _FLOAT, _INT, _STRING, _BODY, _FLOATS, _STRINGS, _BODIES = 1, 2, 3, 4, 6, 7, 9, 11  # of an AttributeProto


class Node(NamedTuple):
    """A node.

    Args:
        name: Its own; may be empty.
        op_type: Which operator.
        inputs: Names of values; empty where an optional one is left out. Of a node with bodies, what they read too.
        outputs: Names of values.
        settings: Attributes by name, those that are numbers and texts, and lists of real numbers and of texts.
        looped: Whether it is in the body of a loop.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, Setting]
    looped: bool = False


def read_nodes(path: Path) -> tuple[Node, ...]:
    """Read all nodes of a file, those of bodies and functions included.

    Raises:
        RunnerError: It is no ONNX file.
    """
    nodes: list[Node] = []
    try:
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # unmapped with the last part of it
        for number, value in _fields(view):
            if isinstance(value, memoryview) and number == _GRAPH:
                _collect(value, _NODES, nodes, looped=False, depth=0)
            elif isinstance(value, memoryview) and number == _FUNCTIONS:
                _collect(value, _FUNCTION_NODES, nodes, looped=False, depth=0)
    except (ValueError, IndexError, struct.error) as error:
        raise RunnerError(f"{path.name}: expected an ONNX file, got one that cannot be read: {error}") from None
    return tuple(nodes)


def _collect(graph: memoryview, field: int, nodes: list[Node], *, looped: bool, depth: int) -> set[str]:
    """Add the nodes of a graph to those found so far.

    Returns:
        What they read.
    """
    if depth > _MOST_DEPTH:
        raise ValueError(f"bodies are nested more than {_MOST_DEPTH} deep")
    read: set[str] = set()
    for number, value in _fields(graph):
        if number == field and isinstance(value, memoryview):
            read.update(_read_node(value, nodes, looped, depth))
    return read


def _read_node(encoded: memoryview, nodes: list[Node], looped: bool, depth: int) -> tuple[str, ...]:
    name = op_type = ""
    inputs: list[str] = []
    outputs: list[str] = []
    settings: dict[str, Setting] = {}
    bodies: list[memoryview] = []
    for number, value in _fields(encoded):
        if not isinstance(value, memoryview):
            continue
        if number == _INPUT:
            inputs.append(_text(value))
        elif number == _OUTPUT:
            outputs.append(_text(value))
        elif number == _NAME:
            name = _text(value)
        elif number == _OP_TYPE:
            op_type = _text(value)
        elif number == _ATTRIBUTE:
            key, setting, found = _read_attribute(value)
            bodies += found
            if setting is not None:
                settings[key] = setting
    for body in bodies:
        within = _collect(body, _NODES, nodes, looped=looped or op_type in _LOOPS, depth=depth + 1)
        inputs += sorted(within - set(inputs))
    nodes.append(Node(name, op_type, tuple(inputs), tuple(outputs), settings, looped))
    return tuple(inputs)


def _read_attribute(encoded: memoryview) -> tuple[str, Setting | None, list[memoryview]]:
    key = ""
    setting: Setting | None = None
    texts: list[str] = []
    numbers: list[float] = []
    bodies: list[memoryview] = []
    for number, value in _fields(encoded):
        if isinstance(value, memoryview):
            if number == _KEY:
                key = _text(value)
            elif number == _STRING:
                setting = _text(value)
            elif number == _STRINGS:
                texts.append(_text(value))
            elif number == _FLOATS:  # all of them, as newer writers do
                numbers += (one for (one,) in struct.iter_unpack("<f", value))
            elif number in (_BODY, _BODIES):
                bodies.append(value)
        elif number in (_FLOAT, _INT):
            setting = value
        elif number == _FLOATS:
            numbers.append(value)
    return key, tuple(texts) or tuple(numbers) or setting, bodies


def _text(value: memoryview) -> str:
    return bytes(value).decode(errors="replace")


def _fields(encoded: memoryview) -> Iterator[tuple[int, int | float | memoryview]]:
    """Go over the fields of a message: number, and value."""
    at, end = 0, len(encoded)
    while at < end:
        tag, at = _varint(encoded, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(encoded, at)
            yield number, value - (1 << 64) if value >> 63 else value
        elif wire == _FIXED32:
            yield number, struct.unpack_from("<f", encoded, at)[0]
            at += 4
        elif wire == _FIXED64:
            yield number, struct.unpack_from("<d", encoded, at)[0]
            at += 8
        elif wire == _BYTES:
            size, at = _varint(encoded, at)
            if at + size > end:
                raise ValueError(f"expected {size} bytes at {at}, got {end - at}")
            yield number, encoded[at : at + size]
            at += size
        else:
            raise ValueError(f"expected a wire type of protobuf, got {wire}")


def _varint(encoded: memoryview, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, the lowest first.

    Returns:
        It, and where it ends.
    """
    value = shift = 0
    while True:
        byte = encoded[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("expected a number of 64 bits, got a longer one")
