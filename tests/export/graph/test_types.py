"""Types of elements: those of the manifest, each with a name in the runtime that the runtime itself gives it."""

import typing

import onnx
import onnxruntime as ort
import pytest

from export.graph.types import DTYPES, ELEMENT_TYPES, RUNTIME_TYPES
from export.manifest import DType
from tests.importing import recurrent_models as models


def test_every_type_of_the_manifest_is_there_once() -> None:
    assert sorted(DTYPES.values()) == sorted(RUNTIME_TYPES.values()) == sorted(typing.get_args(DType))


@pytest.mark.parametrize("dtype", typing.get_args(DType))
def test_the_runtime_calls_it_so(dtype: DType) -> None:
    number = ELEMENT_TYPES[dtype]
    model = models.build(
        [models.value("x", [1], number)], [models.value("y", [1], number)], [models.node("Identity", ["x"], ["y"])]
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert RUNTIME_TYPES[session.get_inputs()[0].type] == dtype
    assert onnx.TensorProto.DataType.Name(number).lower() in (
        dtype,
        {"float32": "float", "float64": "double"}.get(dtype),
    )
