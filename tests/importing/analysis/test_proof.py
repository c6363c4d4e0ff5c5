"""What runs prove of rows: in companies of other numbers too, and that several make up for nothing that one lacks."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from importing.analysis.draws import Draws
from importing.analysis.proof import NotRows, prove_rows
from importing.analysis.rows import Guess
from importing.analysis.sizes import Search
from importing.analysis.walk import Conditions, Original
from importing.session import Session
from importing.signature import read_signature
from tests.importing import recurrent_models as models
from tests.importing.recurrent_models import constant, node

NUMBER = [
    node("Shape", ["x"], ["s"]),
    node("Gather", ["s", "none"], ["n"]),
]
CONSTANTS = [
    constant("none", 0, np.int64),
    constant("two", 2, np.int64),
    constant("eight", 8, np.int64),
    constant("frames", [-1, 8], np.int64),
]


def prove(nodes: Sequence[onnx.NodeProto], size: int) -> dict[str, int]:
    """Of x (B, T) -> y (B, T), with T of that size."""
    model = models.build([models.value("x", ["B", "T"])], [models.value("y", ["B", "T"])], nodes, CONSTANTS)
    original = Original(model, read_signature(model), Session(model), (), {})
    search = Search(original, Draws(1, {}), {}, {}, {})
    return prove_rows(original, search, Conditions(Guess({"x": 0}), True, {"T": size}, {}))


def numbered(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """`m` is made of the number of rows, and y of it."""
    return [*NUMBER, *nodes, node("Cast", ["m"], ["f"], to=models.FLOAT), node("Mul", ["x", "f"], ["y"])]


def test_rows_of_which_each_is_its_own_pass() -> None:
    assert prove([node("Neg", ["x"], ["y"])], 5) == {"y": 0}


@pytest.mark.parametrize("kind", ["Max", "Greater"])
def test_a_number_of_rows_that_counts_from_eight_on_is_seen(kind: str) -> None:
    """Three rows are what one is."""
    with pytest.raises(NotRows, match="output y: expected each row as it is alone"):
        prove(numbered(node(kind, ["n", "eight"], ["m"])), 5)


def test_two_rows_that_are_not_as_three_are_seen() -> None:
    with pytest.raises(NotRows, match="output y: expected each row as it is alone"):
        prove(numbered(node("Equal", ["n", "two"], ["m"])), 5)


def test_several_rows_may_not_be_taken_where_one_is_refused() -> None:
    """Frames of eight: with 8 each row has its own, but eight rows of 1 make one too."""
    nodes = [
        node("Reshape", ["x", "frames"], ["f"]),
        node("Softmax", ["f"], ["p"], axis=1),
        node("Shape", ["x"], ["s"]),
        node("Reshape", ["p", "s"], ["y"]),
    ]
    with pytest.raises(NotRows, match="size T = 1: expected 8 rows to be refused as one is, got an answer"):
        prove(nodes, 8)
