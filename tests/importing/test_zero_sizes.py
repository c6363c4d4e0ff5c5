from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.manifest import GraphSpec, TensorSpec
from importing.zero_sizes import takes_zero_sizes

pytestmark = pytest.mark.slow


def written(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]]) -> GraphSpec:
    held = [helper.make_tensor(name, TensorProto.FLOAT, shape, [0.1] * _size(shape)) for name, shape in weights.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "B", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        held,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    spec = TensorSpec(name="x", dtype="float32", shape=("T", "B", 2))
    return GraphSpec(file=path.name, inputs=(spec,), outputs=())


def _size(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1] * shape[2]


def test_a_kernel_that_ends_the_process_ends_another_one(tmp_path: Path) -> None:
    gru = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=3)
    graph = written(tmp_path / "gru.onnx", [gru], {"w": (1, 9, 2), "r": (1, 9, 3)})
    assert not takes_zero_sizes(tmp_path / "gru.onnx", graph, {"T": 4}, {})


def test_what_only_refuses_them_does_not_take_them(tmp_path: Path) -> None:
    first = helper.make_node("Constant", [], ["zero"], value_int=0)
    graph = written(tmp_path / "first.onnx", [first, helper.make_node("Gather", ["x", "zero"], ["y"])], {})
    assert not takes_zero_sizes(tmp_path / "first.onnx", graph, {}, {})


def test_most_operators_take_them(tmp_path: Path) -> None:
    graph = written(tmp_path / "add.onnx", [helper.make_node("Add", ["x", "x"], ["y"])], {})
    assert takes_zero_sizes(tmp_path / "add.onnx", graph, {}, {})
