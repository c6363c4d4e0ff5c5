"""Recurrent nodes out of primitive operators, against the nodes in ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.bundle import BundlePath
from export.manifest import Variant, with_variant
from importing.expand import expand
from service.repository import ServedModel, open_bundle
from service.runtime.opening import open_runner
from service.runtime.runner import RunnerConfig
from tests.export.graph.refused import refused_by_cuda
from tests.importing.streams import take

Attributes = dict[str, Any]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
INPUT, HIDDEN, ROWS = 3, 5, 4


def model_of(
    op_type: str, attributes: Attributes, steps: int | str = "T", opset: int = 17, left_out: int = 0, extra: int = 0
) -> onnx.ModelProto:
    """A node between two others. Of its inputs the last `left_out` of bias and states are missing; `extra`: lengths."""
    rng = np.random.default_rng(0)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[op_type] * HIDDEN
    shapes = {"W": (directions, rows, INPUT), "R": (directions, rows, HIDDEN), "B": (directions, 2 * rows)}
    weights = [numpy_helper.from_array((0.4 * rng.standard_normal(s)).astype(np.float32), n) for n, s in shapes.items()]
    states = ["initial_h", "initial_c"] if op_type == "LSTM" else ["initial_h"]
    inputs = ["scaled", "W", "R", "B", "lengths" if extra else "", *states]
    if left_out:
        inputs = inputs[:-left_out]
    while inputs[-1] == "":
        inputs.pop()
    outputs = ["Y", "Y_h", "Y_c"] if op_type == "LSTM" else ["Y", "Y_h"]
    attributes = {"hidden_size": HIDDEN, **attributes}
    nodes = [
        helper.make_node("Mul", ["X", "two"], ["scaled"]),
        helper.make_node(op_type, inputs, outputs, name="layer", **attributes),
        helper.make_node("Tanh", ["Y"], ["squashed"]),
    ]
    weights.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    given = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [steps, "B", INPUT])]
    if extra:
        given.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]))
    given += [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [directions, "B", HIDDEN]) for n in states if n in inputs
    ]
    ranks = {"squashed": 4, "Y_h": 3, "Y_c": 3}
    found = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * ranks[n]) for n in ("squashed", *outputs[1:])]
    graph = helper.make_graph(nodes, "graph", given, found, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs_of(model: onnx.ModelProto, steps: int) -> list[np.ndarray[Any, Any]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(steps)
    sizes = {"T": steps, "B": ROWS}
    feeds = {
        one.name: rng.uniform(-1, 1, [sizes.get(size, size) for size in one.shape]).astype(np.float32)
        for one in session.get_inputs()
    }
    found: list[np.ndarray[Any, Any]] = session.run(None, feeds)
    return found


CASES: list[tuple[str, Attributes]] = [
    ("RNN", {"activations": ["Relu"]}),
    ("RNN", {"activations": ["Sigmoid"], "direction": "reverse"}),
    ("RNN", {"activations": ["Relu", "Tanh"], "direction": "bidirectional"}),
    ("GRU", {}),
    ("GRU", {"direction": "reverse"}),
    ("GRU", {"direction": "bidirectional", "activations": ["Sigmoid", "Relu", "Sigmoid", "Tanh"]}),
    ("GRU", {"activations": ["SIGMOID", "relu"]}),
    ("GRU", {"linear_before_reset": 1, "activations": ["Sigmoid", "Softsign"]}),
    ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}),
    ("LSTM", {"activations": ["Sigmoid", "Tanh", "Relu"], "direction": "reverse"}),
    ("LSTM", {"activations": ["Sigmoid", "Tanh", "Softsign"] * 2, "direction": "bidirectional"}),
]


@pytest.mark.parametrize(("op_type", "attributes"), CASES, ids=str)
@pytest.mark.parametrize("left_out", [0, 1, 2, 3])
@pytest.mark.parametrize(("steps", "taken"), [("T", 7), ("T", 1), (1, 1)])
def test_what_replaces_a_node_gives_what_the_node_gives(
    op_type: str, attributes: Attributes, left_out: int, steps: int | str, taken: int
) -> None:
    model = model_of(op_type, attributes, steps, left_out=left_out)
    before = model.SerializeToString()
    expanded = expand(model)
    assert expanded is not None and model.SerializeToString() == before
    onnx.checker.check_model(expanded, full_check=True)
    assert refused_by_cuda(model) and not refused_by_cuda(expanded)
    operators = {node.op_type for node in expanded.graph.node}
    assert op_type not in operators and ("Scan" in operators) == (steps == "T")
    for got, want in zip(outputs_of(expanded, taken), outputs_of(model, taken), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6, rtol=0)


@pytest.mark.slow  # it reads its file in a process of its own
def test_an_import_that_a_gpu_would_not_run_is_served_by_primitive_operators_too(tmp_path: Path) -> None:
    """With relu cells, h_0 a state: both graphs pass the checks, and the service may take either."""
    model = model_of("RNN", {"activations": ["Relu"]}, steps=1)
    imported = take(tmp_path, model, "initial_h=Y_h,axis=1")
    step = imported.manifest.graphs["step"]
    assert step.variants == {"primitive": "step.primitive.onnx"}
    nodes, other = (onnx.load(imported.folder / file) for file in (step.file, "step.primitive.onnx"))
    assert len(refused_by_cuda(nodes)) == 1 and not refused_by_cuda(other)
    checked = {check.check for check in imported.checks}
    assert (
        {f"{check} (primitive)" for check in checked if "(" not in check} == {c for c in checked if "(" in c} != set()
    )
    served = open_bundle(BundlePath(imported.manifest.name, 1, imported.folder), RunnerConfig(provider="cpu"))
    assert isinstance(served, ServedModel)
    answers = []
    names: list[Variant | None] = [None, "primitive"]
    for name in names:
        runner = open_runner(imported.folder, with_variant(imported.manifest, name), RunnerConfig(provider="cpu"))
        feeds = {"X": np.full((2, 1, INPUT), 0.3, np.float32), "write_slots": np.array([2, 3])}
        for reads in ([0, 0], [3, 2]):
            answers.append(
                runner.run("step", {**feeds, "read_slots": np.array(reads)}, ("squashed",))["squashed"].copy()
            )
    np.testing.assert_allclose(answers[2:], answers[:2], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_an_import_that_a_gpu_runs_has_one_graph(tmp_path: Path) -> None:
    imported = take(tmp_path, model_of("LSTM", {}, steps=1), "initial_h=Y_h,axis=1", "initial_c=Y_c,axis=1")
    assert not imported.manifest.graphs["step"].variants
    assert [path.name for path in imported.folder.glob("*.onnx")] == ["step.onnx"]


@pytest.mark.slow
def test_an_expansion_that_differs_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = model_of("RNN", {"activations": ["Relu"]}, steps=1)

    def wrongly(served: onnx.ModelProto) -> onnx.ModelProto | None:
        expanded = expand(served)
        assert expanded is not None
        (weight,) = (one for one in expanded.graph.initializer if one.name == "R")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.1), "R"))
        return expanded

    monkeypatch.setattr("importing.pipeline.expand", wrongly)
    lines: list[str] = []
    imported = take(tmp_path, other, "initial_h=Y_h,axis=1", on_progress=lines.append)
    assert not imported.manifest.graphs["step"].variants
    assert any(line.startswith("left out, as it differs: pooled = original") for line in lines)
    assert not any("(primitive)" in check.check for check in imported.checks)


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_operator_sets_of_today(opset: int) -> None:
    model = model_of("GRU", {}, opset=opset)
    expanded = expand(model)
    assert expanded is not None
    for got, want in zip(outputs_of(expanded, 5), outputs_of(model, 5), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "model",
    [
        model_of("RNN", {}),
        model_of("GRU", {"linear_before_reset": 1}),
        model_of("LSTM", {}),
        model_of("GRU", {}, extra=1),
        model_of("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.1]}),
        model_of("RNN", {"activations": ["Relu"], "clip": 2.0}),
        model_of("LSTM", {"input_forget": 1}),
        model_of("GRU", {}, opset=12),
    ],
)
def test_nodes_that_cuda_runs_and_those_that_cannot_be_replaced_stay(model: onnx.ModelProto) -> None:
    assert expand(model) is None
