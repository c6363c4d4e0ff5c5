"""Small graphs of x (B, 4, 6) -> y, what is said of their rows, and what runs show of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from importing.analysis.meeting import Meeting, rows_meet
from importing.analysis.rows import Guess
from importing.analysis.walk import Conditions, Original
from importing.session import Session
from importing.signature import read_signature
from tests.importing import recurrent_models as models
from tests.importing.recurrent_models import constant

Array = npt.NDArray[Any]
Case = tuple[Sequence[onnx.NodeProto], Sequence[onnx.TensorProto]]
SHAPE = (4, 6)  # of a row


def ints(name: str, *values: int) -> onnx.TensorProto:
    return constant(name, values, np.int64)


def build(case: Case, opset: int = 17, shared: Sequence[onnx.ValueInfoProto] = ()) -> onnx.ModelProto:
    """A model of nodes; `shared` are inputs that have no rows."""
    nodes, weights = case
    inputs = [models.value("x", ["B", *SHAPE]), *shared]
    model = models.build(inputs, [models.value("y", [])], nodes, weights, opset)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def verdict(
    model: onnx.ModelProto, axes: Mapping[str, int] | None = None, shared: Sequence[Mapping[str, Array]] = ({},)
) -> Meeting | None:
    """What is said of the rows; one after the other under these values of inputs that they share."""
    original = Original(model, read_signature(model), Session(model), (), {})
    generator = np.random.default_rng(3)
    guess = Guess({value.name: 0 if value.name == "x" else None for value in model.graph.input})

    def draw(_: Conditions) -> dict[str, Array]:
        return {"x": generator.standard_normal((1, *SHAPE)).astype(np.float32)}

    return rows_meet(original, (Conditions(guess, True, {}, each) for each in shared), draw, axes)


def others_change(model: onnx.ModelProto, **shared: Array) -> bool:
    """Whether answers of other rows change where one row does: more elements change than one row of five has."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(4).standard_normal((5, *SHAPE)).astype(np.float32)
    before = run(session, x, shared)
    for row in range(5):
        changed = x.copy()
        changed[row] = 20 - changed[row] * 3
        after = run(session, changed, shared)
        if before.shape != after.shape or int((before != after).sum()) > before.size // 5:
            return True
    return False


def differ_by_number(model: onnx.ModelProto, rows: int = 20, **shared: Array) -> bool:
    """Whether what a row gets depends on how many rows there are, or on which it is."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.repeat(np.random.default_rng(4).standard_normal((1, *SHAPE)).astype(np.float32), rows, axis=0)
    alone, every = run(session, x[:1], shared), run(session, x, shared)
    if len(alone) != 1 or len(every) != len(x):
        return True
    return any(row.shape != alone[0].shape or not np.allclose(row, alone[0]) for row in every)


def run(session: ort.InferenceSession, x: Array, shared: Mapping[str, Array]) -> Array:
    """What the model gives."""
    (y,) = session.run(None, {"x": x, **shared})
    return np.asarray(y)
