"""Small changes to graphs of ONNX."""

from collections.abc import Collection, Iterator
from typing import Protocol

import onnx

from export.graph.names import all_names, free_name, rename_values
from export.graph.walk import reads


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


def rename(graph: onnx.GraphProto, old: str, value: str) -> str:
    """Call a value inside a graph something else, so that its name is free; give what `value` is called now."""
    new = free_name(f"{old}_inside", set(all_names(graph)))
    rename_values(graph, {old: new})
    return new if value == old else value


def remove(values: "_Values", unwanted: Collection[str]) -> None:
    """Take declared values out by name."""
    for value in [value for value in values if value.name in unwanted]:
        values.remove(value)


class _Values(Protocol):
    """A repeated field of declared values."""

    def __iter__(self) -> Iterator[onnx.ValueInfoProto]: ...
    def remove(self, value: onnx.ValueInfoProto, /) -> None: ...
