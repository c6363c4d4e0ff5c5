"""Graphs in which rows meet or do not; what a run gives where one row is another tells which."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from importing.analysis.meeting import rows_meet
from importing.analysis.rows import Guess
from importing.analysis.walk import Conditions, Original
from importing.session import Session
from importing.signature import read_signature
from tests.importing import recurrent_models as models
from tests.importing.recurrent_models import constant, node, weight

Case = tuple[Sequence[onnx.NodeProto], Sequence[onnx.TensorProto]]
SHAPE = (4, 6)  # of a row
SIX = weight("six", 6, 5)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return constant(name, values, np.int64)


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


def build(case: Case) -> onnx.ModelProto:
    nodes, weights = case
    model = models.build([models.value("x", ["B", *SHAPE])], [models.value("y", [])], nodes, weights)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def verdict(model: onnx.ModelProto) -> str | None:
    original = Original(model, read_signature(model), Session(model), (), {})
    generator = np.random.default_rng(3)
    conditions = Conditions(Guess({"x": 0}), True, {}, {})
    return rows_meet(original, conditions, lambda: {"x": generator.standard_normal((1, *SHAPE)).astype(np.float32)})


def others_change(model: onnx.ModelProto) -> bool:
    """Whether answers of other rows change where one row does: more elements change than one row of five has."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(4).standard_normal((5, *SHAPE)).astype(np.float32)
    before = run(session, x)
    for row in range(5):
        changed = x.copy()
        changed[row] = 20 - changed[row] * 3
        after = run(session, changed)
        if before.shape != after.shape or int((before != after).sum()) > before.size // 5:
            return True
    return False


def run(session: ort.InferenceSession, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


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
    assert verdict(build(TOGETHER["the loudest, if it is loud"])) == "ReduceMax (peak) computes over the rows"


def test_what_no_output_depends_on_does_not_count() -> None:
    nodes, weights = TOGETHER["a softmax of rows"]
    model = build(([*nodes, node("Shape", ["y"], ["s"]), node("Expand", ["x", "s"], ["z"])], weights))
    model.graph.output[0].name = "z"
    assert verdict(model) is None


def test_what_comes_of_control_flow_is_not_known() -> None:
    body = onnx.helper.make_graph(
        [node("ReduceMax", ["x"], ["top"], keepdims=0), node("Sub", ["x", "top"], ["inner"])],
        "body",
        [],
        [models.value("inner", ["B", *SHAPE])],
    )
    nodes = [node("If", ["yes"], ["y"], then_branch=body, else_branch=body)]
    assert verdict(build((nodes, [constant("yes", True, np.bool_)]))) is None
