"""Names of values in a graph, those inside the bodies of control flow included."""

from collections.abc import Iterator, Mapping
from typing import Final

import onnx

_PREFIX: Final = "carryover"
_SHAPES: Final = frozenset({"Shape", "Size"})


class Names:
    """Names that are taken, and new ones that are not.

    Args:
        graph: Whose.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = set(_all_names(graph))

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def fresh(self, base: str) -> str:
        """A name like `base` that nothing has."""
        name, number = f"{_PREFIX}/{base}", 0
        while name in self._taken:
            number += 1
            name = f"{_PREFIX}/{base}_{number}"
        self._taken.add(name)
        return name


def rename_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values wherever they are made and read; declared inputs and outputs of the graph stay as they are."""
    if not names:
        return
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for info in graph.value_info:
        info.name = names.get(info.name, info.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = names.get(annotation.tensor_name, annotation.tensor_name)
    _rename_in_nodes(graph, names)


def _rename_in_nodes(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in bodies(node):
            # What a body defines itself is not the outer value of that name.
            own = {info.name for info in body.input} | {tensor.name for tensor in body.initializer}
            own |= {name for inner in body.node for name in inner.output}
            outer = {old: new for old, new in names.items() if old not in own}
            if outer:
                for info in body.output:
                    info.name = outer.get(info.name, info.name)
                _rename_in_nodes(body, outer)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a control-flow node."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its bodies may take from outside included."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        names |= {info.name for info in body.output}
        for inner in body.node:
            names |= reads(inner)
    return names


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """By value, the node that makes it."""
    return {name: node for node in graph.node for name in node.output if name}


def depends(graph: onnx.GraphProto, value: str, source: str) -> bool:
    """Whether a value can be computed only after another is there; its shape alone may be known before."""
    made_by = producers(graph)
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


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (info.name for info in (*graph.input, *graph.output, *graph.value_info))
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for body in bodies(node):
            yield from _all_names(body)
