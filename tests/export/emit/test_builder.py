"""The graph builder and the front door of the emitters."""

import numpy as np
import onnx
import pytest
from torch import nn

from export.emit.builder import GraphBuilder
from export.emit.emit import emit
from models.config import LanguageModelConfig
from tests.export.emit.models import tiny
from tests.export.emit.runtime import run, session


def test_a_graph_computes_what_was_built() -> None:
    graph = GraphBuilder("sums")
    x = graph.input("x", "float32", ("B", 2))
    low, high = graph.split(graph.op("Mul", x, graph.scalar(3.0)), 2, axis=-1)
    graph.output(low, "low", "float32", ("B", 1))
    graph.output(graph.op("Add", low, high), "sum", "float32", ("B", 1))
    got = run(session(graph.build()), {"x": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)})
    assert (got["low"].tolist(), got["sum"].tolist()) == ([[3.0], [9.0]], [[9.0], [21.0]])


def test_equal_constants_are_one_and_scalars_stay_scalars() -> None:
    graph = GraphBuilder("constants")
    assert graph.ints(1, 2) == graph.ints(1, 2)
    assert len({graph.ints(1), graph.scalar(1.0), graph.constant(np.array(1, np.int64))}) == 3
    graph.output(graph.op("Identity", graph.scalar(1.0)), "one", "float32", ())
    graph.output(graph.op("Identity", graph.constant(np.array(1, np.int64))), "whole", "int64", ())
    graph.output(graph.op("Add", graph.ints(1, 2), graph.ints(1)), "two", "int64", (2,))
    assert sorted(len(initializer.dims) for initializer in graph.build().graph.initializer) == [0, 0, 1, 1]


def test_what_nobody_reads_is_left_out() -> None:
    graph = GraphBuilder("unread")
    x = graph.input("x", "float32", ("B", 2))
    product = graph.op("MatMul", x, graph.weight(np.ones((2, 3)), "unread"))
    graph.op("Tanh", product)
    unread, both = graph.split(graph.op("MatMul", x, graph.weight(np.ones((2, 4)), "read")), 2, axis=-1)
    graph.output(both, "y", "float32", ("B", 2))
    model = graph.build().graph
    assert [node.op_type for node in model.node] == ["MatMul", "Split"]
    assert [initializer.name for initializer in model.initializer] == ["read"]
    assert [value.name for value in model.input] == ["x"] and unread in model.node[1].output


def test_what_the_body_of_a_node_reads_from_around_it_is_kept() -> None:
    """An output among it too, under the name that it gets."""
    graph = GraphBuilder("branching")
    x = graph.input("x", "float32", ("B", 2))
    doubled = graph.op("Mul", x, graph.scalar(2.0))
    squashed = graph.op("Tanh", x)
    branches = []
    for name, op_type in (("then", "Add"), ("else", "Sub")):
        body = GraphBuilder(name, prefix=f"{name}.")
        body.output(body.op(op_type, doubled, squashed), f"{name}.y", "float32", ("B", 2))
        branches.append(body.body())
    positive = graph.op("Greater", graph.op("ReduceSum", x, keepdims=0), graph.scalar(0.0))
    graph.output(graph.op("If", positive, then_branch=branches[0], else_branch=branches[1]), "y", "float32", ("B", 2))
    graph.output(squashed, "squashed", "float32", ("B", 2))
    opened = session(graph.build())
    for given, combine in (
        (np.array([[1.0, 0.5]], np.float32), np.add),
        (np.array([[-1, 0]], np.float32), np.subtract),
    ):
        got = run(opened, {"x": given})["y"]
        np.testing.assert_allclose(got, combine(2 * given, np.tanh(given)), rtol=1e-6)


def test_names_are_taken_once() -> None:
    graph = GraphBuilder("names")
    graph.weight(np.zeros(1), "w")
    with pytest.raises(ValueError, match="w: expected a new name"):
        graph.weight(np.zeros(1), "w")
    with pytest.raises(ValueError, match="output y: expected a node's value"):
        graph.output("w", "y", "float32", (1,))


def test_a_graph_that_is_not_valid_is_refused() -> None:
    graph = GraphBuilder("broken")
    x = graph.input("x", "float32", ("B", 2))
    graph.output(graph.op("MatMul", x, graph.weight(np.zeros((3, 2)), "w")), "y", "float32", ("B", 2))
    with pytest.raises(Exception, match="Incompatible dimensions"):
        graph.build()


def test_graphs_are_of_an_opset_that_every_provider_has() -> None:
    for model in emit(tiny(LanguageModelConfig(dim=4, hidden=4)), "fp32").graphs.values():
        assert [(o.domain, o.version <= 21) for o in model.opset_import] == [("", True)]
        onnx.checker.check_model(model, full_check=True)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k: expected at least 1, got 0"):
        emit(tiny(LanguageModelConfig(dim=4, hidden=4)), "fp32", top_k=0)
    with pytest.raises(TypeError, match="got Linear"):
        emit(nn.Linear(2, 2), "fp32")
