"""Small changes to graphs of ONNX."""

from collections.abc import Collection, Iterator
from typing import Protocol

import onnx


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its bodies may take from around them included."""
    found = {name for name in node.input if name}
    for body in _bodies(node):
        found |= {value.name for value in body.output}
        for inner in body.node:
            found |= reads(inner)
    return found


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes that no output needs any more."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed |= reads(node)
            kept.append(node)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    needed |= {value.name for value in graph.input}  # files of old list weights there too
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def names(graph: onnx.GraphProto) -> set[str]:
    """All names of values that a graph has outside of bodies, or takes from there."""
    found = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        found |= {*node.output, *reads(node)}
    return found


def free_name(base: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken."""
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def rename(graph: onnx.GraphProto, old: str, value: str) -> str:
    """Call a value inside a graph something else, so that its name is free; give what `value` is called now."""
    new = free_name(f"{old}_inside", names(graph))
    for tensor in graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name
    _rename_in_nodes(graph, old, new)
    return new if value == old else value


def _rename_in_nodes(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for body in _bodies(node):
            own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            if old in own.union(*(inner.output for inner in body.node)):
                continue  # what it calls so is its own
            for value in body.output:
                value.name = new if value.name == old else value.name
            _rename_in_nodes(body, old, new)


def remove(values: "_Values", unwanted: Collection[str]) -> None:
    """Take declared values out by name."""
    for value in [value for value in values if value.name in unwanted]:
        values.remove(value)


class _Values(Protocol):
    """A repeated field of declared values."""

    def __iter__(self) -> Iterator[onnx.ValueInfoProto]: ...
    def remove(self, value: onnx.ValueInfoProto, /) -> None: ...
