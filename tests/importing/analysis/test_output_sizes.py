"""What is said of sizes: one that two runs agree on is not one yet, and one that is held at 1 is told."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.importing.small_models import model, tensor
from tests.importing.streams import take

pytestmark = pytest.mark.slow


def test_a_size_that_is_another_from_three_on_is_left_to_the_run(tmp_path: Path) -> None:
    """The output has n (n - 1) / 2 + 1 columns: n of them for n = 1 and 2."""
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["n"]),
        node("Sub", ["n", "one"], ["less"]),
        node("Mul", ["n", "less"], ["product"]),
        node("Div", ["product", "two"], ["half"]),
        node("Add", ["half", "one"], ["columns"]),
        node("Concat", ["one", "columns"], ["wide"], axis=0),
        node("ReduceSum", ["x", "one"], ["sum"], keepdims=1),
        node("Add", ["state", "sum"], ["state_out"]),
        node("Expand", ["state_out", "wide"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in (("one", 1), ("two", 2))]
    made = model(
        nodes,
        constants,
        inputs=[tensor("x", ("batch", "n")), tensor("state", ("batch", 1))],
        outputs=[tensor("y", ("batch", "m")), tensor("state_out", ("batch", 1))],
    )
    (y,) = [t for t in take(tmp_path, made).manifest.graphs["step"].outputs if t.name == "y"]
    assert y.shape[0] == "B" and y.shape[1] != "n"


def test_a_free_size_that_is_taken_for_the_rows_is_told(tmp_path: Path) -> None:
    """The state says that there is one row; the input has any number of them."""
    node = helper.make_node
    nodes = [
        node("ReduceSum", ["x", "zero"], ["sum"], keepdims=1),
        node("Add", ["state", "sum"], ["state_out"]),
        node("Add", ["x", "state_out"], ["y"]),
    ]
    made = model(
        nodes,
        [numpy_helper.from_array(np.array([0], np.int64), "zero")],
        inputs=[tensor("x", ("n", 4)), tensor("state", (1, 4))],
        outputs=[tensor("y", ("n", 4)), tensor("state_out", (1, 4))],
    )
    imported = take(tmp_path, made)
    assert any("free size n" in note for note in imported.layout.notes)
