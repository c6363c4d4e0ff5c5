"""What is said of random graphs: rows that are told to be their own are the same in any company."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.importing.analysis.graphs import SHAPE, Array, verdict
from tests.importing.analysis.random_graphs import random_model

pytestmark = pytest.mark.slow
NUMBER = 60  # of each of the seeds below
SIZES = (2, 5, 13, 19)


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_are_said_to_stay_apart_do(seed: int) -> None:
    told = {True: 0, False: 0}
    for number in range(NUMBER):
        model = random_model(1000 * seed + number, 1 + number % 9)
        if model is None:
            continue
        apart = verdict(model) is None
        told[apart] += 1
        if apart:
            assert company_makes_no_difference(model), describe(model)
    assert min(told.values()) > NUMBER // 8


def company_makes_no_difference(model: onnx.ModelProto) -> bool:
    """Whether each row is what it is alone, beside others that are smaller or larger by far."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(9)
    for size in SIZES:
        x = generator.standard_normal((size, *SHAPE)) * generator.choice([0.1, 1, 30], (size, 1, 1))
        x = x.astype(np.float32)
        single = [run(session, x[row : row + 1]) for row in range(size)]
        taken = [row for row, y in enumerate(single) if y is not None]  # others are refused, alone and in company
        if not taken:
            continue
        alone, together = [y for y in single if y is not None], run(session, x[taken])
        if together is None or not any(same(alone, together, axis) for axis in range(together.ndim)):
            return False
    return True


def same(alone: list[Array], together: Array, axis: int) -> bool:
    """Whether rows lie on that axis, each as it is alone."""
    if together.shape[axis] != len(alone):
        return False
    for row, expected in enumerate(alone):
        got = np.take(together, [row], axis)
        if expected.shape != got.shape:
            return False
        if not np.allclose(got, expected, rtol=1e-4, atol=1e-5 * max(1, np.abs(expected).max()), equal_nan=True):
            return False
    return True


def run(session: ort.InferenceSession, x: Array) -> Array | None:
    try:
        (y,) = session.run(None, {"x": x})
    except Exception:  # its types are many
        return None
    return np.asarray(y)


def describe(model: onnx.ModelProto) -> str:
    """What people can read."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    lines = []
    for each in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in each.attribute}
        lines.append(f"{', '.join(each.output)} = {each.op_type}({', '.join(each.input)}) {attributes}")
    return "\n".join([*lines, *(f"{name} = {str(value)[:100]}" for name, value in constants.items())])
