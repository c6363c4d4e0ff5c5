"""Graphs in which rows meet or do not; what a run gives where one row is another tells which."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from importing.analysis.meeting import Meeting, rows_meet
from importing.analysis.rows import Guess
from importing.analysis.trace import Joined, Unknown
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
SHAPED = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "none"], ["n"]), node("Gather", ["s", "second"], ["t"])]
PLACES = [ints("none", 0), ints("second", 1)]
APART |= {
    "the number of rows in a shape": (
        [
            *SHAPED,
            node("Mul", ["n", "t"], ["nt"]),
            node("Concat", ["nt", "six"], ["flat"], axis=0),
            node("Reshape", ["x", "flat"], ["y0"]),
            node("Reshape", ["y0", "s"], ["y"]),
        ],
        [constant("none", [0], np.int64), constant("second", 1, np.int64), ints("six", 6)],
    ),
    "states made of the number of rows": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "none"], ["n"]),
            node("Concat", ["one", "n", "four"], ["hs"], axis=0),
            node("ConstantOfShape", ["hs"], ["h0"]),
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("GRU", ["t", "W", "R", "", "", "h0"], ["", "h"], hidden_size=4),
            node("Squeeze", ["h", "none"], ["y"]),
        ],
        [weight("W", 1, 12, 6), weight("R", 1, 12, 4), ints("none", 0), ints("one", 1), ints("four", 4)],
    ),
    "expanded as torch does it": (
        [
            node("Shape", ["x"], ["s"]),
            node("Mul", ["s", "minus"], ["m"]),
            node("Equal", ["s", "m"], ["e"]),
            node("Where", ["e", "s", "s"], ["w"]),
            node("Expand", ["bias", "w"], ["b"]),
            node("Add", ["x", "b"], ["y"]),
        ],
        [ints("minus", -1), weight("bias", 6)],
    ),
    "tiled to the number of rows": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "none"], ["n"]),
            node("Concat", ["n", "one", "one"], ["r"], axis=0),
            node("Tile", ["bias", "r"], ["b"]),
            node("Concat", ["x", "b"], ["y"], axis=1),
        ],
        [ints("none", 0), ints("one", 1), weight("bias", 1, 2, 6)],
    ),
    "all rows, cut at their number": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "none"], ["n"]),
            node("Slice", ["x", "none", "n", "none"], ["y"]),
        ],
        [ints("none", 0)],
    ),
    "all rows, cut where nothing ends": (
        [node("Slice", ["x", "none", "end", "none"], ["y"])],
        [ints("none", 0), ints("end", 2**63 - 1)],
    ),
    "a size that decides nothing": (
        [*SHAPED, node("Sub", ["n", "n"], ["zero"]), node("Gather", ["x", "zero"], ["y"], axis=2)],
        PLACES,
    ),
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


NUMBER = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "none"], ["n"])]
FEWER = [ints("none", 0), ints("eight", 8), ints("one", 1)]
# Others change nothing in a row of these where there are as many of them: their number does.
COUNTED: dict[str, Case] = {
    "a mean over as many as there are": (
        [*NUMBER, node("Cast", ["n"], ["f"], to=models.FLOAT), node("Div", ["x", "f"], ["y"])],
        FEWER,
    ),
    "their number from eight on": (
        [
            *NUMBER,
            node("Max", ["n", "eight"], ["m"]),
            node("Cast", ["m"], ["f"], to=models.FLOAT),
            node("Div", ["x", "f"], ["y"]),
        ],
        FEWER,
    ),
    "a table by their number": (
        [*NUMBER, node("Slice", ["pe", "none", "n", "none"], ["p"]), node("Mul", ["x", "p"], ["y"])],
        [*FEWER, weight("pe", 48, 1, 1)],
    ),
    "numbers up to theirs": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Range", ["zero", "n", "unit"], ["r"]),
            node("Cast", ["r"], ["f"], to=models.FLOAT),
            node("Reshape", ["f", "column"], ["c"]),
            node("Add", ["x", "c"], ["y"]),
        ],
        [constant("zero", 0, np.int64), constant("unit", 1, np.int64), ints("column", -1, 1, 1)],
    ),
    "as many ones, added up": (
        [
            *NUMBER,
            node("ConstantOfShape", ["n"], ["ones"], value=constant("v", [1.0])),
            node("ReduceSum", ["ones", "none"], ["f"], keepdims=1),
            node("Div", ["x", "f"], ["y"]),
        ],
        FEWER,
    ),
    "ones on a diagonal": (
        [
            node("Reshape", ["x", "flat"], ["f"]),
            node("EyeLike", ["f"], ["e"]),
            node("Add", ["f", "e"], ["y"]),
        ],
        [ints("flat", -1, 24)],
    ),
    "half of the pairs": (
        [
            node("ReduceSum", ["x", "within"], ["r"], keepdims=0),
            node("Reshape", ["r", "column"], ["c"]),
            node("Tile", ["c", "wide"], ["w"]),
            node("Trilu", ["w"], ["y"]),
        ],
        [ints("within", 1, 2), ints("column", -1, 1), ints("wide", 1, 5)],
    ),
    "the largest of a place in all rows": (
        [node("MaxPool", ["x"], ["m", "i"], kernel_shape=[6]), node("Cast", ["i"], ["y"], to=models.FLOAT)],
        [],
    ),
    "an axis that is left out where there is one row": (
        [
            node("ReduceSum", ["x", "one"], ["r"], keepdims=1),
            node("Squeeze", ["r"], ["q"]),
            node("Unsqueeze", ["q", "one"], ["u"]),
            node("ReduceSum", ["u", "last"], ["y"], keepdims=0),
        ],
        [*FEWER, ints("last", -1)],
    ),
    "a number that decides": (
        [
            *NUMBER,
            node("Greater", ["n", "eight"], ["g"]),
            node("Cast", ["g"], ["f"], to=models.FLOAT),
            node("Mul", ["x", "f"], ["y"]),
        ],
        FEWER,
    ),
    "resized by a little": (
        [
            node("Unsqueeze", ["x", "first"], ["u"]),
            node("Resize", ["u", "", "by"], ["r"], mode="nearest"),
            node("Squeeze", ["r", "first"], ["y"]),
        ],
        [ints("first", 1), constant("by", [1.05, 1, 1, 1])],
    ),
    "at most so many rows": (
        [node("Slice", ["x", "none", "many", "none"], ["y"])],
        [*FEWER, ints("many", 17)],
    ),
}


def build(case: Case, opset: int = 17) -> onnx.ModelProto:
    nodes, weights = case
    model = models.build([models.value("x", ["B", *SHAPE])], [models.value("y", [])], nodes, weights, opset)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def verdict(model: onnx.ModelProto, axes: Mapping[str, int] | None = None) -> Meeting | None:
    original = Original(model, read_signature(model), Session(model), (), {})
    generator = np.random.default_rng(3)
    conditions = Conditions(Guess({"x": 0}), True, {}, {})

    def draw(_: Conditions) -> dict[str, npt.NDArray[np.float32]]:
        return {"x": generator.standard_normal((1, *SHAPE)).astype(np.float32)}

    return rows_meet(original, [conditions], draw, axes)


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


@pytest.mark.parametrize("name", COUNTED)
def test_the_number_of_rows_in_values(name: str) -> None:
    model = build(COUNTED[name])
    assert differ_by_number(model)
    assert verdict(model) is not None


def differ_by_number(model: onnx.ModelProto) -> bool:
    """Whether what a row gets depends on how many rows there are, or on which it is."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.repeat(np.random.default_rng(4).standard_normal((1, *SHAPE)).astype(np.float32), 20, axis=0)
    alone, every = run(session, x[:1]), run(session, x)
    if len(alone) != 1 or len(every) != len(x):
        return True
    return any(row.shape != alone[0].shape or not np.allclose(row, alone[0]) for row in every)


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
