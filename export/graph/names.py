"""Names of values in a graph, those inside the bodies of control flow included."""

from collections.abc import Collection, Iterator, Mapping

import onnx

from export.graph.walk import bodies, initializer_names


def all_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name of a value or a node."""
    yield from (info.name for info in (*graph.input, *graph.output, *graph.value_info))
    yield from initializer_names(graph)
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for body in bodies(node):
            yield from all_names(body)


def free_name(base: str, taken: Collection[str]) -> str:
    """The name, or one like it that is not taken."""
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
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
            own = {info.name for info in body.input} | set(initializer_names(body))
            own |= {name for inner in body.node for name in inner.output}
            outer = {old: new for old, new in names.items() if old not in own}
            if outer:
                for info in body.output:
                    info.name = outer.get(info.name, info.name)
                _rename_in_nodes(body, outer)
