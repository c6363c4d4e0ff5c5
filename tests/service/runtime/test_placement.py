"""Where nodes run: of real sessions, and of assignments as a CUDA session would tell them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from export.graph.cuda import refusal
from export.manifest import GraphSpec, Manifest, StateSpec, TensorSpec
from service.runtime.errors import RunnerError
from service.runtime.nodes import Node, Setting, read_nodes
from service.runtime.placement import Placement, place, working_nodes

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


@dataclass
class Told:
    """A node as ONNX Runtime tells of it."""

    op_type: str
    name: str


@dataclass
class Part:
    """Nodes of a provider."""

    ep_name: str
    nodes: Sequence[Told]

    def get_nodes(self) -> Sequence[Told]:
        return self.nodes


def tensors(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype="float32", shape=("N", 3)) for name in names)


STATE = StateSpec(
    name="h", dtype="float32", shape=(3,),
    pool_input="h_pool", pool_output="h_pool_out", sequence_input="initial_h", sequence_output="final_h",
)  # fmt: skip
STEP = GraphSpec(file="step.onnx", inputs=tensors("x", "h_pool"), outputs=tensors("y", "h_pool_out"))
SEQUENCE = GraphSpec(file="sequence.onnx", inputs=tensors("x", "initial_h"), outputs=tensors("y", "final_h"))
MANIFEST = Manifest(
    name="placed", version=1, task="language_model", precision="fp32", graphs={"step": STEP, "sequence": SEQUENCE},
    states=(STATE,), tokenizers={}, created="", files={},
)  # fmt: skip


def node(
    op_type: str,
    name: str,
    inputs: str,
    outputs: str,
    settings: Mapping[str, Setting] | None = None,
    looped: bool = False,
) -> Node:
    def names(text: str) -> tuple[str, ...]:
        return tuple("" if one == "-" else one for one in text.split())

    return Node(name, op_type, names(inputs), names(outputs), settings or {}, looped)


def on_cpu(nodes: Sequence[Node], *told: Told, spec: GraphSpec = STEP) -> Placement:
    """Place a graph of which some nodes run on the CPU."""
    others = [Told(one.op_type, one.name) for one in nodes if Told(one.op_type, one.name) not in told]
    return place([Part(CUDA, others), Part(CPU, told)], nodes, spec, MANIFEST, CPU)


def primitive_step(product: str = "Gemm") -> list[Node]:
    """A recurrence out of products, one product before it and one after."""
    return [
        node("MatMul", "embedding", "x e", "embedded"),
        node("Gather", "read", "h_pool slots", "h"),
        node("Concat", "joined", "embedded h", "both"),
        node(product, "gates", "both w b", "gated"),
        node("Tanh", "squash", "gated", "next"),
        node("ScatterND", "write", "h_pool slots next", "h_pool_out"),
        node("Gemm", "logits", "next v", "y"),
    ]


def test_a_graph_that_runs_where_it_should_is_not_worth_a_word() -> None:
    placement = on_cpu(primitive_step(), Told("Gather", "read"), Told("Concat", "joined"))
    assert placement == Placement((), ())
    assert list(placement.warnings("step")) == []
    placement.insist("step")


@pytest.mark.parametrize(
    ("op_type", "inputs", "settings", "reason"),
    [
        ("GRU", "x w r", {}, "linear_before_reset=0; CUDA has 1 alone"),
        ("GRU", "x w r", {"linear_before_reset": 0}, "linear_before_reset=0; CUDA has 1 alone"),
        (
            "GRU", "x w r", {"linear_before_reset": 1, "activations": ("Sigmoid", "Relu")},
            "activations Sigmoid, Relu; CUDA has Sigmoid, Tanh alone",
        ),
        (
            "GRU", "x w r", {"linear_before_reset": 1, "activations": ("Sigmoid", "Tanh", "Sigmoid", "Sigmoid")},
            "activations Sigmoid, Tanh, Sigmoid, Sigmoid; CUDA has Sigmoid, Tanh alone",
        ),
        ("RNN", "x w r", {"activations": ("Relu",)}, "activations Relu; CUDA has Tanh alone"),
        ("RNN", "x w r", {"activations": ("Sigmoid",)}, "activations Sigmoid; CUDA has Tanh alone"),
        ("RNN", "x w r", {"clip": 3.0}, "clip, which CUDA has not"),
        ("LSTM", "x w r", {"clip": 1.0}, "clip, which CUDA has not"),
        ("LSTM", "x w r", {"activation_alpha": (1.0,)}, "activation_alpha, which CUDA has not"),
        ("LSTM", "x w r", {"input_forget": 1}, "input_forget=1, which CUDA has not"),
        ("LSTM", "x w r b - h c p", {}, "peepholes, which CUDA has not"),
        ("LSTM", "x w r", {"activations": ("Sigmoid", "Tanh", "Relu")},
         "activations Sigmoid, Tanh, Relu; CUDA has Sigmoid, Tanh, Tanh alone"),
        # What CUDA has, on the CPU all the same: nothing that could be told.
        ("LSTM", "x w r b - h c -", {"input_forget": 0}, "ONNX Runtime does not tell why"),
        ("LSTM", "x w r", {"activations": ("Sigmoid", "Tanh", "Tanh") * 2}, "ONNX Runtime does not tell why"),
        ("GRU", "x w r", {"linear_before_reset": 1, "activations": ("sigmoid", "tanh")},
         "ONNX Runtime does not tell why"),
        ("RNN", "x w r", {}, "ONNX Runtime does not tell why"),
        ("DynamicQuantizeLSTM", "x w r", {}, "CUDA has none"),
    ],
)  # fmt: skip
def test_a_cell_on_the_cpu_is_told_with_the_reason_and_refused_where_cuda_is_insisted_on(
    op_type: str, inputs: str, settings: dict[str, Setting], reason: str
) -> None:
    nodes = [node(op_type, "layer_0", inputs, "- final_h", settings), node("Gemm", "logits", "final_h v", "y")]
    placement = on_cpu(nodes, Told(op_type, "layer_0"), spec=SEQUENCE)
    assert placement == Placement((f"{op_type} layer_0 ({reason})",), ())
    assert list(placement.warnings("sequence")) == [
        f"graph sequence: the recurrence runs on the CPU, and each run waits for it: {op_type} layer_0 ({reason})"
    ]
    with pytest.raises(RunnerError) as refused:
        placement.insist("sequence")
    assert str(refused.value) == (
        f"provider cuda: graph sequence: expected the recurrence on the GPU, got {op_type} layer_0 ({reason}) on the "
        "CPU; provider auto serves it so"
    )


@pytest.mark.parametrize(
    ("product", "reason"),
    [
        ("Gemm", "ONNX Runtime does not tell why"),
        ("MatMulInteger", "CUDA multiplies signed bytes with signed bytes alone"),
    ],
)
def test_of_products_those_between_a_state_and_the_next_are_the_recurrence(product: str, reason: str) -> None:
    nodes = primitive_step(product)
    told = [Told(one.op_type, one.name) for one in nodes]
    placement = on_cpu(nodes, *told)
    assert placement.recurrent == (f"{product} gates ({reason})",)
    assert placement.other == ("MatMul embedding", "Tanh squash", "ScatterND write", "Gemm logits")
    assert list(placement.warnings("step")) == [
        f"graph step: the recurrence runs on the CPU, and each run waits for it: {product} gates ({reason})",
        "graph step: 4 nodes run on the CPU (MatMul embedding, Tanh squash, ScatterND write, Gemm logits)",
    ]


def test_work_beside_the_recurrence_is_a_warning_and_no_error() -> None:
    nodes = primitive_step()
    placement = on_cpu(nodes, Told("Gemm", "logits"))
    placement.insist("step")
    assert list(placement.warnings("step")) == ["graph step: 1 nodes run on the CPU (Gemm logits)"]


def test_of_many_nodes_the_first_are_named() -> None:
    nodes = [node("LSTM", f"l{i}", "x w r", f"h{i}", {"clip": 1.0}) for i in range(7)]
    (warning,) = on_cpu(nodes, *(Told("LSTM", f"l{i}") for i in range(7))).warnings("step")
    assert warning.count("LSTM") == 4
    assert warning.endswith("LSTM l3 (clip, which CUDA has not) and 3 more")


def test_products_in_a_loop_are_the_recurrence() -> None:
    nodes = [
        node("Scan", "loop", "x w", "y"),
        node("MatMul", "within", "a w", "b", looped=True),
        node("MatMul", "beside", "x w", "z"),
    ]
    placement = on_cpu(nodes, Told("MatMul", "within"), Told("MatMul", "beside"))
    assert placement.recurrent == ("MatMul within (ONNX Runtime does not tell why)",)
    assert placement.other == ("MatMul beside",)


def test_fused_nodes_and_nodes_without_a_name_are_known_by_what_they_were() -> None:
    nodes = [
        node("Gather", "", "h_pool slots", "h"),
        node("MatMul", "net/gates", "h w", "gated"),
        node("MatMul", "", "gated u", "next"),
        node("ScatterND", "", "h_pool slots next", "h_pool_out"),
        node("GRU", "", "next w r", "y", {"linear_before_reset": 0}),
    ]
    told = (Told("Gemm", "net/gates/MatMulAddFusion"), Told("MatMul", ""), Told("GRU", ""), Told("Gemm", "unheard/of"))
    placement = on_cpu(nodes, *told)
    assert placement.recurrent == (
        "Gemm net/gates/MatMulAddFusion (ONNX Runtime does not tell why)",
        "MatMul (ONNX Runtime does not tell why)",
        "GRU (linear_before_reset=0; CUDA has 1 alone)",
    )
    assert placement.other == ("Gemm unheard/of",)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"linear_before_reset": 1}, "ONNX Runtime does not tell why"),
        ({}, "linear_before_reset=0; CUDA has 1 alone"),
        ({"linear_before_reset": 1, "clip": 0.5}, "clip, which CUDA has not"),
        ({"linear_before_reset": 1, "activations": ["Sigmoid", "Relu"]},
         "activations Sigmoid, Relu; CUDA has Sigmoid, Tanh alone"),
        ({"linear_before_reset": 1, "activations": ["sigmoid", "TANH"]}, "ONNX Runtime does not tell why"),
        ({"linear_before_reset": 1, "activation_alpha": [0.1]}, "activation_alpha, which CUDA has not"),
        ({"linear_before_reset": 1, "activation_beta": [0.1, 0.2]}, "activation_beta, which CUDA has not"),
    ],
)  # fmt: skip
def test_a_file_and_a_real_session_give_the_same_cells(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    """The names that ONNX Runtime tells are those of the file."""
    value = helper.make_tensor_value_info
    weights = [numpy_helper.from_array(np.ones((1, 9, width), dtype=np.float32), name) for name, width in
               (("w", 2), ("r", 3))]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("GRU", ["x", "w", "r", "", "", "initial"], ["", "final"], "cell", hidden_size=3, **settings)],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["T", "B", 2]), value("initial", onnx.TensorProto.FLOAT, [1, "B", 3])],
        [value("final", onnx.TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(tmp_path / "model.onnx", options, providers=[CPU])
    assignment = session.get_provider_graph_assignment_info()
    placement = place(assignment, read_nodes(tmp_path / "model.onnx"), SEQUENCE, MANIFEST, CPU)
    assert placement == Placement((f"GRU cell ({reason})",), ())
    assert (refusal(graph.node[0]) or "ONNX Runtime does not tell why") == reason  # so do export and import


def test_work_on_the_cpu_is_found_and_arithmetic_on_shapes_passed_over() -> None:
    """Of an int8 step, too, which has no LSTM or GRU node to look for."""
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", "B", 2])]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT32, None) for name in ("y", "z")]
    outputs[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    weights = [
        numpy_helper.from_array(np.ones((1, 9, 2), dtype=np.float32), "w"),
        numpy_helper.from_array(np.ones((1, 9, 3), dtype=np.float32), "r"),
        numpy_helper.from_array(np.ones((3, 3), dtype=np.int8), "q"),
        numpy_helper.from_array(np.array(0.1, dtype=np.float32), "scale"),
        numpy_helper.from_array(np.array(0, dtype=np.uint8), "zero"),
    ]
    nodes = [
        helper.make_node("GRU", ["x", "w", "r"], ["h"], "recurrence", hidden_size=3),
        helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["h8"], "rounding"),
        helper.make_node("MatMulInteger", ["h8", "q"], ["y"], "product"),
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Add", ["shape", "shape"], ["z"], "sum"),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    found = working_nodes(session.get_provider_graph_assignment_info(), CPU)
    assert sorted(found) == ["GRU recurrence", "MatMulInteger product", "QuantizeLinear rounding"]
    assert working_nodes(session.get_provider_graph_assignment_info(), CUDA) == []
