"""Go over everything in a model, wherever it hides: in subgraphs of control flow, in functions, in attributes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx

from export.graph.walk import bodies, initializer_names


@dataclass(frozen=True)
class Scope:
    """A list of nodes that run in order: of the model's graph, of a subgraph, or of a function.

    Args:
        name: For people.
        nodes: In the order of the file.
        given: Names that exist before the first node runs; those of the scopes around it left out.
        results: Names that it returns.
        function: Of which function's body it is a part, "domain:name"; "" where it is of none.
    """

    name: str
    nodes: Iterable[onnx.NodeProto]
    given: frozenset[str]
    results: tuple[str, ...]
    function: str = ""


def scopes(model: onnx.ModelProto) -> Iterator[Scope]:
    """Every scope of a model, outer ones first."""
    yield from graph_scopes(model.graph, "")
    for function in model.functions:
        key = function_key(function)
        scope = Scope(f"function {key}", function.node, frozenset(function.input), tuple(function.output), key)
        yield scope
        for node in function.node:
            for graph in bodies(node):
                yield from graph_scopes(graph, key)


def graph_scopes(graph: onnx.GraphProto, function: str) -> Iterator[Scope]:
    """A graph's own scope and those inside it; the parser has bounded how deep they lie."""
    waiting = [graph]
    while waiting:
        graph = waiting.pop()
        given = frozenset((*(value.name for value in graph.input), *initializer_names(graph)))
        results = tuple(value.name for value in graph.output)
        yield Scope(f"graph {graph.name!r}", graph.node, given, results, function)
        waiting.extend(inner for node in graph.node for inner in bodies(node))


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Every graph of a model, functions' subgraphs and training graphs included."""
    waiting = [model.graph]
    for information in model.training_info:
        waiting += [information.initialization, information.algorithm]
    for function in model.functions:
        waiting += [inner for node in function.node for inner in bodies(node)]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting.extend(inner for node in graph.node for inner in bodies(node))


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model."""
    for graph in graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant tensor of a model; of a sparse one its values and its indices."""
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    attributes = [attribute for node in nodes(model) for attribute in node.attribute]
    attributes += [attribute for function in model.functions for attribute in function.attribute_proto]
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in sparse_tensors([attribute]):
            yield from (sparse.values, sparse.indices)


def sparse_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.SparseTensorProto]:
    """The sparse tensors of attributes."""
    for attribute in attributes:
        if attribute.HasField("sparse_tensor"):
            yield attribute.sparse_tensor
        yield from attribute.sparse_tensors


def values(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Every declared value of a model: inputs, outputs and those between."""
    for graph in graphs(model):
        yield from graph.input
        yield from graph.output
        yield from graph.value_info
    for function in model.functions:
        yield from function.value_info


def function_key(function: onnx.FunctionProto) -> str:
    """What a function is called by."""
    return _key(function.domain, function.name, function.overload)


def call_key(node: onnx.NodeProto) -> str:
    """What a node calls, if it is a function: its `function_key`."""
    return _key(node.domain, node.op_type, node.overload)


def _key(domain: str, name: str, overload: str) -> str:
    return ":".join((canonical(domain), name, *([overload] if overload else [])))


def canonical(domain: str) -> str:
    """One name for ONNX's own domain, which has two."""
    return "" if domain == "ai.onnx" else domain
