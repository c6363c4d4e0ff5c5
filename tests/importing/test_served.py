"""Whatever is accepted can be served: each bundle is opened as the service does it, and takes a step."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.bundle import list_versions
from export.manifest import DType, TensorSpec, storage
from service.repository import ServedModel, open_bundle
from service.runtime.runner import RunnerConfig
from tests.importing import recurrent_models as models
from tests.importing.small_models import honest
from tests.importing.streams import Array, take

pytestmark = pytest.mark.slow


def stateless(kind: int) -> onnx.ModelProto:
    """The input as it came, of some type."""
    shape: models.Shape = ["B", "n"]
    return models.build(
        [models.value("x", shape, kind)], [models.value("y", shape, kind)], [models.node("Identity", ["x"], ["y"])]
    )


def kept(kind: int) -> onnx.ModelProto:
    """A delay line of some type."""
    model = models.delay()
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = kind
    return model


MODELS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "honest": honest,
    "lstm": models.lstm,
    "old lstm": lambda: models.lstm(opset=9, ir_version=3),
    "cell": models.cell,
    "cell of one": lambda: models.cell(1),
    "cell of four": lambda: models.cell(4),
    "delay": models.delay,
    "exchange": models.exchange,
    "mixed": models.mixed,
    "switched": models.switched,
    "scanned": models.scanned,
    "many": models.many,
    **{
        f"state of {onnx.TensorProto.DataType.Name(kind)}": lambda kind=kind: kept(kind)  # type: ignore[misc]
        for kind in models.NUMBERS
    },
    **{
        f"no state, {onnx.TensorProto.DataType.Name(kind)}": lambda kind=kind: stateless(kind)  # type: ignore[misc]
        for kind in (*models.NUMBERS, onnx.TensorProto.STRING)
    },
}


def zeros(dtype: DType, shape: tuple[int, ...]) -> Array:
    return np.full(shape, b"" if dtype == "string" else 0, dtype=storage(dtype))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_accepted_opens_and_steps(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    returned = {info.name for info in model.graph.output}
    states = [f"{info.name}={info.name}_out" for info in model.graph.input if f"{info.name}_out" in returned]
    imported = take(tmp_path, model, *states, stateless=name.startswith("no state"))
    (path,) = list_versions(tmp_path / "repository")
    opened = open_bundle(path, RunnerConfig(provider="cpu", threads=1, num_slots=4))
    assert isinstance(opened, ServedModel), opened
    try:
        ((kind, graph),) = imported.manifest.graphs.items()
        pools = {state.pool_input for state in imported.manifest.states}
        pools |= {state.pool_output for state in imported.manifest.states}
        spec = imported.manifest.imported
        assert spec is not None

        def shape(tensor: TensorSpec) -> tuple[int, ...]:
            return tuple(spec.examples.get(s, 1) if isinstance(s, str) else s for s in tensor.shape)

        inputs = {
            tensor.name: zeros(tensor.dtype, shape(tensor)) for tensor in graph.inputs if tensor.name not in pools
        }
        if "write_slots" in inputs:
            inputs["write_slots"] = np.array([2], np.int64)
        outputs = tuple(tensor.name for tensor in graph.outputs if tensor.name not in pools)
        got = opened.runner.run(kind, inputs, outputs)
        assert {name: len(array) for name, array in got.items()} == dict.fromkeys(outputs, 1)
    finally:
        opened.runner.close()
