"""Graphs that compute with the number of their rows: in shapes it may be, in values it may not."""

import numpy as np
import onnx
import pytest

from tests.importing import recurrent_models as models
from tests.importing.analysis.graphs import Case, build, differ_by_number, ints, others_change, verdict
from tests.importing.recurrent_models import constant, node, weight

SHAPED = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "none"], ["n"]), node("Gather", ["s", "second"], ["t"])]
PLACES = [ints("none", 0), ints("second", 1)]
SIZES: dict[str, Case] = {
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


NEGATIVE = [
    node("Less", ["p", "zero"], ["l"]),
    node("Cast", ["l"], ["f"], to=models.FLOAT),
    node("Add", ["x", "f"], ["y"]),
]
IN_32 = node("Cast", ["n"], ["w"], to=onnx.TensorProto.INT32)
ZERO_32 = constant("zero", [0], np.int32)
# By how many rows it takes: from there on their number, or what comes of it, is more than its type holds.
WRAPPED: dict[str, tuple[int, Case]] = {
    "in 8 bits": (
        130,
        (
            [
                *NUMBER,
                node("Cast", ["n"], ["b"], to=onnx.TensorProto.INT8),
                node("Cast", ["b"], ["p"], to=onnx.TensorProto.INT32),
                *NEGATIVE,
            ],
            [*FEWER, ZERO_32],
        ),
    ),
    "a product in 32 bits": (
        20,
        (
            [*NUMBER, IN_32, node("Mul", ["w", "k"], ["p"]), *NEGATIVE],
            [*FEWER, ZERO_32, constant("k", 2**27, np.int32)],
        ),
    ),
    "a square in 32 bits": (
        130,
        (
            [*NUMBER, IN_32, node("Mul", ["w", "k"], ["q"]), node("Mul", ["q", "q"], ["p"]), *NEGATIVE],
            [*FEWER, ZERO_32, constant("k", 360, np.int32)],
        ),
    ),
    "a product in 64 bits": (
        20,
        (
            [*NUMBER, node("Mul", ["n", "k"], ["p"]), *NEGATIVE],
            [*FEWER, constant("zero", [0], np.int64), constant("k", 2**59, np.int64)],
        ),
    ),
    "a difference without a sign": (
        1,
        (
            [
                *NUMBER,
                node("Cast", ["n"], ["w"], to=onnx.TensorProto.UINT64),
                node("Sub", ["w", "two"], ["d"]),
                node("Less", ["d", "w"], ["l"]),
                *NEGATIVE[1:],
            ],
            [*FEWER, constant("two", [2], np.uint64)],
        ),
    ),
    "half a float": (
        2049,
        (
            [
                *NUMBER,
                node("Cast", ["n"], ["h"], to=onnx.TensorProto.FLOAT16),
                node("Cast", ["h"], ["w"], to=models.INT64),
                node("Less", ["w", "n"], ["l"]),
                *NEGATIVE[1:],
            ],
            FEWER,
        ),
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_number_of_rows_in_a_type_that_is_too_small_for_it(name: str) -> None:
    rows, case = WRAPPED[name]
    model = build(case)
    assert rows == 1 or differ_by_number(model, rows)
    assert verdict(model) is not None


@pytest.mark.parametrize("name", SIZES)
def test_the_number_of_rows_in_sizes(name: str) -> None:
    model = build(SIZES[name])
    assert not others_change(model)
    assert not differ_by_number(model)
    assert verdict(model) is None


@pytest.mark.parametrize("name", COUNTED)
def test_the_number_of_rows_in_values(name: str) -> None:
    model = build(COUNTED[name])
    assert differ_by_number(model)
    assert verdict(model) is not None
