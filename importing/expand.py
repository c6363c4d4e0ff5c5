"""Recurrent nodes that CUDA does not run, out of operators that it runs.

ONNX Runtime's CUDA provider leaves reset-before GRUs and layers with other functions than the usual to the CPU
(`export.graph.cells`): every run then waits for copies there and back. Here such a node becomes a product of its inputs
for all steps and a `Scan` over them or, where its input is known to have one step, that step alone, which a CUDA graph
can hold too.

Left as they are: nodes with lengths of their own, clips, peepholes, coupled gates, functions with parameters, types
other than float32, operator sets before 13, and what lies in bodies of control flow.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from export.graph.cells import FUNCTIONS, PEEPHOLES
from export.graph.cuda import refusal
from importing.names import Names

_MOST_BYTES: Final = 2**31 - 1  # of one protobuf message, as which types are asked for
_OPSET: Final = 13  # the first whose Split and Squeeze take sizes and axes as inputs
_GATES: Final = {"RNN": 1, "GRU": 3, "LSTM": 4}
_OPERATORS: Final = {
    name.lower(): name for name in ("Tanh", "Sigmoid", "Relu", "Softsign", "Softplus")
}  # no parameters
_LENGTHS, _HIDDEN, _CELL = 4, 5, 6  # positions among the inputs


def expand(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Replace the recurrent nodes that CUDA leaves to the CPU.

    Args:
        model: Not changed.

    Returns:
        The new model; None where there is no such node that can be replaced.
    """
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < _OPSET or not any(refusal(node) is not None for node in model.graph.node):
        return None
    if model.ByteSize() > _MOST_BYTES:
        return None
    types = _types(model)
    expanded = onnx.ModelProto()
    expanded.CopyFrom(model)
    names = Names(expanded.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        inputs = types.get(node.input[0]) if node.input else None
        if refusal(node) is None or inputs is None or not _can(node, inputs):
            nodes.append(node)
        else:
            nodes.extend(_Expansion(node, names, one_step=_size(inputs, 0) == 1).build())
    if nodes == list(model.graph.node):
        return None
    del expanded.graph.node[:]
    expanded.graph.node.extend(nodes)
    return expanded


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """What is known of each value's type."""
    graph = shape_inference.infer_shapes(model).graph
    return {info.name: info.type.tensor_type for info in (*graph.input, *graph.value_info, *graph.output)}


def _size(tensor: onnx.TypeProto.Tensor, axis: int) -> int | None:
    dimensions = tensor.shape.dim
    known = len(dimensions) > axis and dimensions[axis].HasField("dim_value")
    return dimensions[axis].dim_value if known else None


def _can(node: onnx.NodeProto, inputs: onnx.TypeProto.Tensor) -> bool:
    values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    known = {"activations", "direction", "hidden_size", "linear_before_reset"}
    extra = [name for name, value in values.items() if name not in known and value not in (0, 0.0)]
    given = [bool(name) for name in node.input] + [False] * (PEEPHOLES + 1)
    return (
        inputs.elem_type == TensorProto.FLOAT
        and not extra
        and not given[_LENGTHS]
        and not given[PEEPHOLES]
        and all(name.decode().lower() in _OPERATORS for name in values.get("activations", ()))
    )


class _Expansion:
    """One node, replaced."""

    def __init__(self, node: onnx.NodeProto, names: Names, one_step: bool) -> None:
        self._node = node
        self._names = names
        self._one_step = one_step
        values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        self._direction = values.get("direction", b"forward").decode()
        self._num_directions = 2 if self._direction == "bidirectional" else 1
        self._reset_after = bool(values.get("linear_before_reset", 0))
        self._hidden = int(values["hidden_size"])
        usual = FUNCTIONS[node.op_type] * self._num_directions
        named = [_OPERATORS[name.decode().lower()] for name in values.get("activations", ())]
        self._functions = named or list(usual)
        self._nodes: list[onnx.NodeProto] = []

    def build(self) -> list[onnx.NodeProto]:
        parts = [self._run(direction) for direction in range(self._num_directions)]
        axes = [1] + [0] * (len(parts[0]) - 1)  # Y (T, D, B, H), then the final states (D, B, H)
        for i, target in enumerate(self._node.output):
            if target:
                stacked = [self._op("Unsqueeze", part[i], self._ints(axes[i])) for part in parts]
                self._nodes.append(helper.make_node("Concat", stacked, [target], axis=axes[i]))
        return self._nodes

    def _run(self, direction: int) -> list[str]:
        """Outputs (T, B, H) and final states (B, H) of one direction."""
        matrix, recurrent = (self._part(position, direction) for position in (1, 2))  # (G*H, I), (G*H, H)
        projected = self._op("MatMul", self._node.input[0], self._op("Transpose", matrix, perm=[1, 0]))  # (T, B, G*H)
        gates = _GATES[self._node.op_type]
        if len(self._node.input) > 3 and self._node.input[3]:
            bias, recurrent_bias = self._split(self._part(3, direction), 2, gates * self._hidden)
            projected = self._op("Add", projected, bias)
        else:
            recurrent_bias = self._constant(np.zeros(gates * self._hidden, np.float32))
        weights = [self._op("Transpose", recurrent, perm=[1, 0]), recurrent_bias]
        kinds = (_HIDDEN, _CELL) if self._node.op_type == "LSTM" else (_HIDDEN,)
        old = [self._initial(position, direction) for position in kinds]
        count = len(FUNCTIONS[self._node.op_type])
        functions = self._functions[direction * count : (direction + 1) * count]
        if self._one_step:
            new = self._step(self._op("Squeeze", projected, self._ints(0)), old, weights, functions)
            return [self._op("Unsqueeze", new[0], self._ints(0)), *new]
        return self._scan(projected, old, weights, functions, backward=direction == 1 or self._direction == "reverse")

    def _scan(
        self, projected: str, old: Sequence[str], weights: Sequence[str], functions: Sequence[str], backward: bool
    ) -> list[str]:
        outside, self._nodes = self._nodes, []
        states = [self._names.fresh("state") for _ in old]
        gates = self._names.fresh("gates")
        new = self._step(gates, states, weights, functions)
        output = self._op("Identity", new[0])  # one value cannot be two outputs of a body
        body = helper.make_graph(
            self._nodes,
            self._names.fresh("body"),
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*states, gates)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*new, output)],
        )
        self._nodes = outside
        finals, outputs = [self._names.fresh("final") for _ in old], self._names.fresh("outputs")
        self._nodes.append(
            helper.make_node(
                "Scan",
                [*old, projected],
                [*finals, outputs],
                name=self._names.fresh("Scan"),
                body=body,
                num_scan_inputs=1,
                scan_input_directions=[int(backward)],
                scan_output_directions=[int(backward)],
            )
        )
        return [outputs, *finals]

    def _step(self, gates: str, old: Sequence[str], weights: Sequence[str], functions: Sequence[str]) -> list[str]:
        """New states (B, H) from the inputs' part of the gates (B, G*H) and the old ones, as ONNX defines the node."""
        hidden, (matrix, bias) = old[0], weights
        if self._node.op_type == "GRU" and not self._reset_after:
            return [self._reset_before(gates, hidden, matrix, bias, functions)]
        recurrent = self._op("Add", self._op("MatMul", hidden, matrix), bias)
        if self._node.op_type == "GRU":
            z_in, r_in, n_in = self._split(gates, 3, self._hidden)
            z_rec, r_rec, n_rec = self._split(recurrent, 3, self._hidden)
            z, r = (self._op(functions[0], self._op("Add", *pair)) for pair in ((z_in, z_rec), (r_in, r_rec)))
            candidate = self._op("Add", n_in, self._op("Mul", r, n_rec))
            return [self._mixed(z, self._op(functions[1], candidate), hidden)]
        total = self._op("Add", gates, recurrent)
        if self._node.op_type == "RNN":
            return [self._op(functions[0], total)]
        i, o, f, c = self._split(total, 4, self._hidden)
        kept = self._op("Mul", self._op(functions[0], f), old[1])
        cell = self._op("Add", kept, self._op("Mul", self._op(functions[0], i), self._op(functions[1], c)))
        return [self._op("Mul", self._op(functions[0], o), self._op(functions[2], cell)), cell]

    def _reset_before(self, gates: str, hidden: str, matrix: str, bias: str, functions: Sequence[str]) -> str:
        z_in, r_in, n_in = self._split(gates, 3, self._hidden)
        z_matrix, r_matrix, n_matrix = self._split(matrix, 3, self._hidden, axis=1)
        z_bias, r_bias, n_bias = self._split(bias, 3, self._hidden)
        z, r = (
            self._op(functions[0], self._op("Add", given, self._op("Add", self._op("MatMul", hidden, part), added)))
            for given, part, added in ((z_in, z_matrix, z_bias), (r_in, r_matrix, r_bias))
        )
        product = self._op("Add", self._op("MatMul", self._op("Mul", r, hidden), n_matrix), n_bias)
        return self._mixed(z, self._op(functions[1], self._op("Add", n_in, product)), hidden)

    def _mixed(self, z: str, candidate: str, hidden: str) -> str:
        """(1 - z) * candidate + z * hidden."""
        return self._op("Add", candidate, self._op("Mul", z, self._op("Sub", hidden, candidate)))

    def _initial(self, position: int, direction: int) -> str:
        if len(self._node.input) > position and self._node.input[position]:
            return self._part(position, direction)
        rows = self._op("Shape", self._node.input[0])
        rows = self._op("Gather", rows, self._ints(1))  # (1,): B
        shape = self._op("Concat", rows, self._ints(self._hidden), axis=0)
        return self._op("Expand", self._constant(np.zeros((1, 1), np.float32)), shape)

    def _part(self, position: int, direction: int) -> str:
        """What an input has for a direction: its first axis counts them."""
        return self._op("Gather", self._node.input[position], self._constant(np.array(direction, np.int64)), axis=0)

    def _split(self, value: str, count: int, size: int, axis: int = -1) -> list[str]:
        outputs = [self._names.fresh("Split") for _ in range(count)]
        self._nodes.append(helper.make_node("Split", [value, self._ints(*[size] * count)], outputs, axis=axis))
        return outputs

    def _ints(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _constant(self, array: np.ndarray[Any, Any]) -> str:
        return self._op("Constant", value=numpy_helper.from_array(array))

    def _op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = self._names.fresh(op_type)
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output
