"""What a node reads from around it, and what depends on what."""

import onnx
import pytest

from export.graph.names import all_names, free_name, rename_values
from export.graph.walk import all_nodes, bodies, depends, reads
from tests.importing import recurrent_models as models


def branches() -> onnx.GraphProto:
    """Y = a + b where `loud`, else c; each branch has a value `inner` of its own, one of them from a constant."""
    shape: models.Shape = ["B"]
    then = onnx.helper.make_graph(
        [models.node("Mul", ["a", "k"], ["inner"]), models.node("Add", ["inner", "b"], ["sum"])],
        "then",
        [],
        [models.value("sum", shape)],
        [models.constant("k", 1.0)],
    )
    otherwise = onnx.helper.make_graph(
        [models.node("Identity", ["c"], ["inner"])], "otherwise", [], [models.value("inner", shape)]
    )
    model = models.build(
        [*[models.value(name, shape) for name in "abc"], models.value("loud", [], models.BOOL)],
        [models.value("y", shape), models.value("z", [1], models.INT64)],
        [
            models.node("If", ["loud"], ["y"], name="choice", then_branch=then, else_branch=otherwise),
            models.node("Shape", ["a"], ["z"]),
        ],
    )
    return model.graph


def test_a_node_reads_what_its_bodies_take_from_around_them_and_not_what_is_theirs() -> None:
    assert reads(branches().node[0]) == {"loud", "a", "b", "c"}


def test_all_nodes_are_gone_over_each_before_what_is_inside_of_it() -> None:
    assert [node.op_type for node in all_nodes(branches())] == ["If", "Identity", "Mul", "Add", "Shape"]


@pytest.mark.parametrize(
    ("value", "source", "expected"), [("y", "b", True), ("y", "loud", True), ("z", "a", False), ("y", "z", False)]
)
def test_what_depends_on_what(value: str, source: str, expected: bool) -> None:
    assert depends(branches(), value, source) is expected


def test_names_are_free_where_nothing_has_them_not_even_inside() -> None:
    taken = set(all_names(branches()))
    assert taken >= {"a", "inner", "k", "sum", "choice"}
    assert free_name("inner", taken | {"inner_1"}) == "inner_2"
    assert free_name("other", taken) == "other"


def test_values_are_renamed_where_they_are_read_but_not_where_a_body_has_its_own() -> None:
    graph = branches()
    rename_values(graph, {"a": "A", "inner": "I", "c": "C", "y": "Y"})
    otherwise, then = bodies(graph.node[0])
    assert list(graph.node[0].output) == ["Y"]
    assert [list(node.input) for node in then.node] == [["A", "k"], ["inner", "b"]]
    assert [list(node.input) for node in otherwise.node] == [["C"]]
    assert [value.name for value in otherwise.output] == ["inner"]
    assert [value.name for value in graph.input][:3] == ["a", "b", "c"]  # declarations stay
