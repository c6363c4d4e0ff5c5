"""Go over the nodes of a graph, the bodies of control flow included, and along the values between them."""

from collections.abc import Iterator
from typing import Final

import onnx

_SHAPES: Final = frozenset({"Shape", "Size"})


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a control-flow node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of bodies included, each before what is inside of it and what follows it."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from all_nodes(body)


def initializer_names(graph: onnx.GraphProto) -> list[str]:
    """Names of a graph's constants."""
    return [tensor.name for tensor in graph.initializer] + [t.values.name for t in graph.sparse_initializer]


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its bodies take from around them included."""
    found = {name for name in node.input if name}
    for body in bodies(node):
        inside = {value.name for value in body.input} | set(initializer_names(body))
        wanted = {value.name for value in body.output}
        for inner in body.node:
            wanted |= reads(inner)
            inside |= set(inner.output)
        found |= wanted - inside
    return found


def depends(graph: onnx.GraphProto, value: str, source: str) -> bool:
    """Whether a value can be computed only after another is there; its shape alone may be known before."""
    made_by = {name: node for node in graph.node for name in node.output if name}
    waiting, seen = [value], {value}
    while waiting:
        name = waiting.pop()
        if name == source:
            return True
        node = made_by.get(name)
        new = reads(node) - seen if node is not None and node.op_type not in _SHAPES else set()
        seen |= new
        waiting.extend(new)
    return False
