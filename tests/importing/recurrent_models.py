"""Recurrent models as strangers export them, small enough to write by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
NUMBERS = (
    *(TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16),
)  # of each type that has numbers or truths
INPUT, HIDDEN = 3, 4
Shape = list[int | str]


def value(name: str, shape: Sequence[int | str], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def constant(name: str, array: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    seed = sum(name.encode())
    return constant(name, np.random.default_rng(seed).standard_normal(shape) / 2)


def build(
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    ir_version: int = 8,
    **fields: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "stranger", list(inputs), list(outputs), list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, **fields)
    onnx.checker.check_model(model)
    return model


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, **attributes)


def lstm(rows: str | int = "batch", time: str | int = "time", opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """X (T, B, I), h and c (1, B, H) -> y (T, B, H), hn, cn."""
    weights = [weight("W", 1, 4 * HIDDEN, INPUT), weight("R", 1, 4 * HIDDEN, HIDDEN), weight("bias", 1, 8 * HIDDEN)]
    squeeze = [node("Squeeze", ["Y", "first"], ["y"])] if opset >= 13 else [node("Squeeze", ["Y"], ["y"], axes=[1])]
    inputs = [value("x", [time, rows, INPUT]), *[value(name, [1, rows, HIDDEN]) for name in ("h", "c")]]
    if opset >= 13:
        weights.append(constant("first", [1], np.int64))
    if ir_version < 4:  # initializers had to be inputs too
        inputs += [value(tensor.name, tensor.dims, tensor.data_type) for tensor in weights]
    return build(
        inputs,
        [value("y", [time, rows, HIDDEN]), *[value(name, [1, rows, HIDDEN]) for name in ("hn", "cn")]],
        [node("LSTM", ["x", "W", "R", "bias", "", "h", "c"], ["Y", "hn", "cn"], hidden_size=HIDDEN), *squeeze],
        weights,
        opset,
        ir_version,
    )


def cell(rows: str | int = "B", opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """X (B, I), state (B, H) -> y (B, H), state_out: tanh(x w + state), without a recurrent operator."""
    weights = [weight("w", INPUT, HIDDEN)]
    inputs = [value("x", [rows, INPUT]), value("state", [rows, HIDDEN])]
    if ir_version < 4:
        inputs.append(value("w", [INPUT, HIDDEN]))
    return build(
        inputs,
        [value("y", [rows, HIDDEN]), value("state_out", [rows, HIDDEN])],
        [
            node("MatMul", ["x", "w"], ["product"]),
            node("Add", ["product", "state"], ["sum"]),
            node("Tanh", ["sum"], ["state_out"]),
            node("Add", ["state_out", "state"], ["y"]),
        ],
        weights,
        opset,
        ir_version,
    )


def delay() -> onnx.ModelProto:
    """A delay line of one step: y is the x before. The next state is computed from nothing that was gathered."""
    return build(
        [value("x", ["B", INPUT]), value("before", ["B", INPUT])],
        [value("y", ["B", INPUT]), value("before_out", ["B", INPUT])],
        [node("Identity", ["before"], ["y"]), node("Identity", ["x"], ["before_out"])],
    )


def exchange() -> onnx.ModelProto:
    """Two states that change places each step, and x is added to what goes left."""
    shape: Shape = ["B", INPUT]
    return build(
        [value("x", shape), value("left", shape), value("right", shape)],
        [value("y", shape), value("left_out", shape), value("right_out", shape)],
        [
            node("Add", ["right", "x"], ["left_out"]),
            node("Identity", ["left"], ["right_out"]),
            node("Sub", ["left", "right"], ["y"]),
        ],
    )


def mixed() -> onnx.ModelProto:
    """States of all kinds and places: floats (2, B, 3), doubles (3, 2, B), a count (B), a truth (B, 1), a half (B, 2).

    The count goes up where x is positive; the truth is whether it was ever above one; the others sum.
    """
    nodes = [
        node("Unsqueeze", ["x", "zero"], ["layer"]),
        node("Concat", ["layer", "layer"], ["layers"], axis=0),
        node("Add", ["front", "layers"], ["front_out"]),
        node("Transpose", ["front_out"], ["turned"], perm=[2, 0, 1]),
        node("Cast", ["turned"], ["doubles"], to=TensorProto.DOUBLE),
        node("Add", ["back", "doubles"], ["back_out"]),
        node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=1),
        node("Greater", ["most", "nothing"], ["positive"]),
        node("Cast", ["positive"], ["positive_number"], to=INT64),
        node("Squeeze", ["positive_number", "one"], ["increment"]),
        node("Add", ["count", "increment"], ["count_out"]),
        node("Greater", ["most", "much"], ["large"]),
        node("Or", ["ever", "large"], ["ever_out"]),
        node("Concat", ["most", "most"], ["twice"], axis=1),
        node("Cast", ["twice"], ["halves"], to=TensorProto.FLOAT16),
        node("Add", ["half", "halves"], ["half_out"]),
        node("Cast", ["count_out"], ["y"], to=FLOAT),
    ]
    states: list[tuple[str, Shape, int]] = [
        ("front", [2, "B", INPUT], FLOAT),
        ("back", [INPUT, 2, "B"], TensorProto.DOUBLE),
        ("count", ["B"], INT64),
        ("ever", ["B", 1], BOOL),
        ("half", ["B", 2], TensorProto.FLOAT16),
    ]
    return build(
        [value("x", ["B", INPUT]), *[value(*state) for state in states]],
        [value("y", ["B"]), *[value(f"{name}_out", shape, dtype) for name, shape, dtype in states]],
        nodes,
        [
            constant("zero", [0], np.int64),
            constant("one", [1], np.int64),
            constant("nothing", 0.0),
            constant("much", 1.0),
        ],
    )


def switched(rate: int = 16000) -> onnx.ModelProto:
    """Control flow on a shared scalar, as a voice activity detector has it: at `rate` the state adds, else it keeps.

    The branches read the outer state; one of them does not update it.
    """
    then = helper.make_graph([node("Add", ["state", "x"], ["added"])], "then", [], [value("added", ["B", INPUT])])
    otherwise = helper.make_graph(
        [node("Identity", ["state"], ["kept"])], "otherwise", [], [value("kept", ["B", INPUT])]
    )
    return build(
        [value("x", ["B", INPUT]), value("state", ["B", INPUT]), value("sr", [], INT64)],
        [value("y", ["B", INPUT]), value("stateN", ["B", INPUT])],
        [
            node("Equal", ["sr", "rate"], ["fits"]),
            node("If", ["fits"], ["stateN"], then_branch=then, else_branch=otherwise),
            node("Mul", ["stateN", "two"], ["y"]),
        ],
        [constant("rate", rate, np.int64), constant("two", 2.0)],
    )


def scanned() -> onnx.ModelProto:
    """A recurrence as a Scan over time: x (T, B, I), s (B, I) -> running sums (T, B, I), s_out."""
    body = helper.make_graph(
        [node("Add", ["sum_before", "frame"], ["sum_after"]), node("Identity", ["sum_after"], ["frame_out"])],
        "body",
        [value("sum_before", ["B", INPUT]), value("frame", ["B", INPUT])],
        [value("sum_after", ["B", INPUT]), value("frame_out", ["B", INPUT])],
    )
    return build(
        [value("x", ["T", "B", INPUT]), value("s", ["B", INPUT])],
        [value("y", ["T", "B", INPUT]), value("s_out", ["B", INPUT])],
        [node("Scan", ["s", "x"], ["s_out", "y"], body=body, num_scan_inputs=1)],
    )


def many(count: int = 24) -> onnx.ModelProto:
    """A stack of cells, each with a state of its own width and every other one with its rows second."""
    inputs, outputs = [value("x", ["B", INPUT])], []
    nodes, weights, below, width_below = [], [], "x", INPUT
    for index in range(count):
        width, second = 2 + index % 5, index % 2
        shape: list[int | str] = [1, "B", width] if second else ["B", width]
        inputs.append(value(f"cache_{index}", shape))
        outputs.append(value(f"new_cache_{index}", shape))
        weights.append(weight(f"w_{index}", width_below, width))
        nodes += [
            node("MatMul", [below, f"w_{index}"], [f"product_{index}"]),
            node("Add", [f"product_{index}", f"cache_{index}"], [f"sum_{index}"]),
            node("Tanh", [f"sum_{index}"], [f"new_cache_{index}"]),
        ]
        below, width_below = f"new_cache_{index}", width
        if second:
            nodes.append(node("Squeeze", [f"new_cache_{index}", "zero"], [f"flat_{index}"]))
            below = f"flat_{index}"
    nodes.append(node("Identity", [below], ["y"]))
    weights.append(constant("zero", [0], np.int64))
    return build(inputs, [value("y", ["B", width_below]), *outputs], nodes, weights)
