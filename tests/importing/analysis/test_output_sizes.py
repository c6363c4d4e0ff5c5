"""A size that two runs agree on is not one yet."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.importing.small_models import model, tensor
from tests.importing.streams import take

pytestmark = pytest.mark.slow


def test_a_size_that_is_another_from_three_on_is_left_to_the_run(tmp_path: Path) -> None:
    """y has n (n - 1) / 2 + 1 columns: n of them for n = 1 and 2."""
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
