"""Graphs in which rows meet or do not; what a run gives where one row is another tells which."""

import numpy as np
import onnx
import pytest

from importing.analysis.operators import RULES
from importing.analysis.trace import Joined, Unknown
from tests.importing import recurrent_models as models
from tests.importing.analysis.graphs import Case, build, ints, others_change, verdict
from tests.importing.recurrent_models import constant, node, weight

SIX = weight("six", 6, 5)
LOUD = [node("ReduceMax", ["x"], ["peak"], keepdims=0), node("Greater", ["peak", "eight"], ["loud"])]
MANY = [node("Cast", ["many"], ["f"], to=models.FLOAT), node("Add", ["x", "f"], ["y"])]
EIGHT, COLUMN = constant("eight", 8.0), ints("column", 1)

# x (B, 4, 6) -> y, whatever shape it has.
APART: dict[str, Case] = {
    "elementwise": ([node("Tanh", ["x"], ["y"])], []),
    "a mean of a row": ([node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)], []),
    "a softmax of a row": ([node("Softmax", ["x"], ["y"], axis=1)], []),
    "normalised within a row": ([node("MeanVarianceNormalization", ["x"], ["y"], axes=[1, 2])], []),
    "padded within a row": ([node("Pad", ["x", "wide"], ["y"])], [ints("wide", 0, 1, 0, 0, 1, 2)]),
    "a product": ([node("MatMul", ["x", "six"], ["y"])], [SIX]),
    "attention in a row": (
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"])],
        [],
    ),
    "rows and time as one axis, and back": (
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("Gemm", ["f", "six"], ["g"]),
            node("Reshape", ["g", "back"], ["r"]),
            node("ReduceMax", ["r"], ["y"], axes=[1], keepdims=0),
        ],
        [SIX, ints("flat", -1, 6), ints("back", -1, 4, 5)],
    ),
    "time first": (
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("GRU", ["t", "W", "R"], ["Y", "h"], hidden_size=4),
            node("Squeeze", ["h", "one_axis"], ["s"]),
            node("ReduceSum", ["s", "last"], ["y"], keepdims=0),
        ],
        [weight("W", 1, 12, 6), weight("R", 1, 12, 4), ints("one_axis", 0), ints("last", 1)],
    ),
    "a convolution": ([node("Conv", ["x", "kernel"], ["y"], pads=[1, 1])], [weight("kernel", 2, 4, 3)]),
    "parts of a row": (
        [node("Split", ["x"], ["a", "b"], axis=1), node("Concat", ["b", "a"], ["y"], axis=2)],
        [],
    ),
    "a piece of a row": (
        [node("Slice", ["x", "from", "to", "at"], ["y"])],
        [ints("from", 1), ints("to", 3), ints("at", 1)],
    ),
    "a letter for the rows": ([node("Einsum", ["x", "six"], ["y"], equation="bti,ij->tbj")], [SIX]),
    "indices that are looked up": (
        [node("ArgMax", ["x"], ["i"], axis=2, keepdims=0), node("Gather", ["table", "i"], ["y"], axis=0)],
        [weight("table", 6, 3)],
    ),
    "a norm of a row": ([node("LayerNormalization", ["x", "scale"], ["y"], axis=-1)], [weight("scale", 6)]),
    "a triangle of a row": ([node("Trilu", ["x"], ["y"])], []),
    "written within a row": (
        [
            node("ArgMax", ["x"], ["i"], axis=1, keepdims=1),
            node("ReduceMax", ["x"], ["u"], axes=[1], keepdims=1),
            node("Neg", ["u"], ["v"]),
            node("ScatterElements", ["x", "i", "v"], ["y"], axis=1),
        ],
        [],
    ),
    "looked up by row": (
        [node("ArgMax", ["x"], ["i"], axis=1, keepdims=1), node("GatherElements", ["x", "i"], ["y"], axis=1)],
        [],
    ),
    "looked up side by side": (
        [
            node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
            node("Gather", ["i", "first"], ["j"], axis=1),
            node("GatherND", ["x", "j"], ["y"], batch_dims=1),
        ],
        [ints("first", 0)],
    ),
    "looked up in a table, by several": (
        [node("ArgMax", ["x"], ["i"], axis=2, keepdims=1), node("GatherND", ["table", "i"], ["y"])],
        [weight("table", 6, 3)],
    ),
    "turned around as far as each says": (
        [
            node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
            node("Gather", ["i", "none"], ["l"], axis=1),
            node("ReverseSequence", ["x", "l"], ["y"], batch_axis=0, time_axis=1),
        ],
        [constant("none", 0, np.int64)],
    ),
    "space to depth": (
        [
            node("Unsqueeze", ["x", "first"], ["u"]),
            node("SpaceToDepth", ["u"], ["d"], blocksize=2),
            node("DepthToSpace", ["d"], ["y"], blocksize=2),
        ],
        [ints("first", 1)],
    ),
    "the same rows beside each other, apart again": (
        [
            node("Concat", ["x", "x"], ["c"], axis=0),
            node("Reshape", ["c", "two"], ["r"]),
            node("ReduceSum", ["r", "none"], ["y"], keepdims=0),
        ],
        [ints("none", 0), ints("two", 2, -1, 4, 6)],
    ),
    "resized within a row": (
        [node("Unsqueeze", ["x", "first"], ["u"]), node("Resize", ["u", "", "by"], ["y"], mode="linear")],
        [ints("first", 1), constant("by", [1, 1, 2, 2])],
    ),
    "some of a row": (
        [node("Compress", ["x", "which"], ["y"], axis=1)],
        [constant("which", [True, False, True, True], np.bool_)],
    ),
}
TOGETHER: dict[str, Case] = {
    "the mean of all": (
        [node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["y"])],
        [],
    ),
    "the loudest, if it is loud": (
        [
            node("Abs", ["x"], ["a"]),
            node("ReduceMax", ["a"], ["peak"], keepdims=0),
            node("Max", ["peak", "eight"], ["gain"]),
            node("Div", ["x", "gain"], ["y"]),
        ],
        [constant("eight", 8.0)],
    ),
    "a flag of any": (
        [
            node("Greater", ["x", "eight"], ["g"]),
            node("Cast", ["g"], ["n"], to=models.FLOAT),
            node("ReduceMax", ["n"], ["any"], keepdims=0),
            node("Sub", ["x", "any"], ["y"]),
        ],
        [constant("eight", 8.0)],
    ),
    "a softmax of rows": ([node("Softmax", ["x"], ["y"], axis=0)], []),
    "normalised over rows": ([node("MeanVarianceNormalization", ["x"], ["y"], axes=[0])], []),
    "beside the row before": (
        [node("Pad", ["x", "shift"], ["before"]), node("Add", ["x", "before"], ["y"])],
        [ints("shift", 1, 0, 0, -1, 0, 0)],
    ),
    "cut across rows": (
        [
            node("Reshape", ["x", "halves"], ["r"]),
            node("ReduceMax", ["r"], ["m"], axes=[0], keepdims=0),
            node("ReduceMax", ["m"], ["n"], axes=[0], keepdims=0),
            node("Add", ["x", "n"], ["y"]),
        ],
        [ints("halves", 2, -1)],
    ),
    "counted": (
        [
            node("Greater", ["x", "eight"], ["g"]),
            node("NonZero", ["g"], ["where"]),
            node("Shape", ["where"], ["s"]),
            node("Cast", ["s"], ["f"], to=models.FLOAT),
            node("ReduceMax", ["f"], ["n"], keepdims=0),
            node("Add", ["x", "n"], ["y"]),
        ],
        [constant("eight", 8.0)],
    ),
    "counted where any is loud": (
        [*LOUD, node("NonZero", ["loud"], ["where"]), node("Size", ["where"], ["many"]), *MANY],
        [EIGHT],
    ),
    "some where any is loud": (
        [
            *LOUD,
            node("Reshape", ["loud", "column"], ["l"]),
            node("Compress", ["eight", "l"], ["some"]),
            node("Shape", ["some"], ["many"]),
            *MANY,
        ],
        [constant("eight", [8.0]), COLUMN],
    ),
    "cut where any is loud": (
        [
            *LOUD,
            node("Cast", ["loud"], ["end"], to=models.INT64),
            node("Unsqueeze", ["end", "none"], ["ends"]),
            node("Slice", ["column", "none", "ends"], ["part"]),
            node("Shape", ["part"], ["many"]),
            *MANY,
        ],
        [EIGHT, COLUMN, ints("none", 0)],
    ),
    "as many zeros as are loud": (
        [
            *LOUD,
            node("Cast", ["loud"], ["length"], to=models.INT64),
            node("Unsqueeze", ["length", "none"], ["lengths"]),
            node("ConstantOfShape", ["lengths"], ["zeros"]),
            node("Size", ["zeros"], ["many"]),
            *MANY,
        ],
        [EIGHT, ints("none", 0)],
    ),
    "running sums of rows": ([node("CumSum", ["x", "first"], ["y"])], [constant("first", 0, np.int64)]),
    "the first row for all": (
        [node("Gather", ["x", "none"], ["f"], axis=0), node("Add", ["x", "f"], ["y"])],
        [ints("none", 0)],
    ),
    "a mean of rows and time as one axis": (
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("ReduceMean", ["f"], ["m"], axes=[0], keepdims=0),
            node("Add", ["x", "m"], ["y"]),
        ],
        [ints("flat", -1, 6)],
    ),
    "rows for steps in time": (
        [node("GRU", ["x", "W", "R"], ["Y", ""], hidden_size=4), node("Squeeze", ["Y", "one_axis"], ["y"])],
        [weight("W", 1, 12, 6), weight("R", 1, 12, 4), ints("one_axis", 1)],
    ),
    "attention between rows": (
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("Transpose", ["f"], ["t"]),
            node("MatMul", ["f", "t"], ["s"]),
            node("MatMul", ["s", "f"], ["y"]),
        ],
        [ints("flat", -1, 24)],
    ),
    "a product over the rows": (
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("Transpose", ["f"], ["t"]),
            node("MatMul", ["t", "f"], ["s"]),
            node("MatMul", ["f", "s"], ["y"]),
        ],
        [ints("flat", -1, 24)],
    ),
    "a letter that is summed": (
        [node("Einsum", ["x"], ["s"], equation="bti->ti"), node("Add", ["x", "s"], ["y"])],
        [],
    ),
    "one scale for all": (
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        [],
    ),
    "backwards": (
        [node("Slice", ["x", "from", "to", "at", "by"], ["r"]), node("Sub", ["x", "r"], ["y"])],
        [ints("from", -1), ints("to", -(2**62)), ints("at", 0), ints("by", -1)],
    ),
}


@pytest.mark.parametrize("name", APART)
def test_rows_that_stay_apart(name: str) -> None:
    model = build(APART[name])
    assert not others_change(model)
    assert verdict(model) is None


@pytest.mark.parametrize("name", TOGETHER)
def test_rows_that_meet(name: str) -> None:
    model = build(TOGETHER[name])
    assert others_change(model)
    assert verdict(model) is not None


def test_the_operator_is_named() -> None:
    assert verdict(build(TOGETHER["the loudest, if it is loud"])) == Joined("ReduceMax (peak) computes over the rows")


def test_what_no_output_depends_on_does_not_count() -> None:
    nodes, weights = TOGETHER["a softmax of rows"]
    model = build(([*nodes, node("Shape", ["y"], ["s"]), node("Expand", ["x", "s"], ["z"])], weights))
    model.graph.output[0].name = "z"
    assert verdict(model) is None


def test_an_operator_without_a_rule_is_named() -> None:
    grid = [node("Unsqueeze", ["x", "first"], ["u"]), node("CenterCropPad", ["u", "sizes"], ["c"], axes=[2])]
    model = build(([*grid, node("Squeeze", ["c", "first"], ["y"])], [ints("first", 1), ints("sizes", 4)]), opset=18)
    assert not others_change(model)
    assert verdict(model) == Unknown("what CenterCropPad (c) does with them is not known")


def test_a_graph_that_cannot_be_looked_into_is_not_known() -> None:
    """Eight rows it takes, and no others: not those numbers of rows that it is looked at with."""
    model = build(([node("Reshape", ["x", "eight"], ["y"])], [ints("eight", 8, 4, 6)]))
    assert isinstance(verdict(model), Unknown)


def test_rows_elsewhere_than_runs_told_are_not_known() -> None:
    model = build(([node("Transpose", ["x"], ["y"], perm=[1, 0, 2])], []))
    assert verdict(model, {"y": 1}) is None
    assert isinstance(verdict(model, {"y": 0}), Unknown)


def test_a_size_that_is_as_many_as_the_rows_are_once_is_not_taken_for_them() -> None:
    model = build(([node("Reshape", ["x", "seven"], ["r"]), node("Softmax", ["r"], ["y"])], [ints("seven", 7, -1)]))
    assert verdict(model) is not None


def across_seventy_seven() -> Case:
    """A row of 77 laid out as 77 of as many as there are rows: both numbers that are tried divide 77."""
    nodes = [
        node("Reshape", ["x", "flat"], ["f"]),
        node("MatMul", ["f", "wide"], ["w"]),
        node("Reshape", ["w", "other"], ["o"]),
        node("ReduceMax", ["o"], ["most"], axes=[1], keepdims=1),
        node("Sub", ["o", "most"], ["s"]),
        node("Reshape", ["s", "back"], ["y"]),
    ]
    return nodes, [ints("flat", -1, 24), weight("wide", 24, 77), ints("other", 77, -1), ints("back", -1, 77)]


def test_a_size_that_both_numbers_of_rows_divide_is_not_taken_for_them() -> None:
    model = build(across_seventy_seven())
    assert others_change(model)
    assert isinstance(verdict(model), Unknown)


def test_a_size_that_both_numbers_divide_is_seen_in_a_branch_too() -> None:
    nodes, weights = across_seventy_seven()
    nodes = [*nodes[:-1], node("Reshape", ["s", "back"], ["inside"])]
    branch = onnx.helper.make_graph(nodes, "branch", [], [onnx.ValueInfoProto(name="inside")])
    chosen = node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    model = build(([chosen], [*weights, constant("yes", True, np.bool_)]))
    assert others_change(model)
    assert isinstance(verdict(model), Unknown)


def test_a_rule_that_overlooks_rows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says has none is another where rows are."""
    model = build(([node("Tanh", ["x"], ["t"]), node("Add", ["x", "t"], ["y"])], []))
    assert verdict(model) is None
    monkeypatch.setitem(RULES, "Tanh", lambda look: None)
    assert verdict(model) == Unknown("t depends on their number in a way that was not followed")
