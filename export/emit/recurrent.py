"""Recurrent stacks and steps, in the precision of the graph.

In fp32 and fp16 a layer is one ONNX LSTM or GRU node, which takes time-major inputs (T, B, I); its `sequence_lens`
gives what packed sequences give in torch: zeros past the end, final states after the last valid step, the backward
direction starting there. In int8 a layer is made of primitive operators (`export.emit.quantized`), and so are the
layers of a step and a chunk whose graph is to have no such nodes (`export.emit.primitive`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from export.emit.builder import GraphBuilder
from export.emit.linear import Activation, emit_concat
from export.emit.primitive import emit_primitive_chunk, emit_primitive_step
from export.emit.quantized import emit_quantized_chunk, emit_quantized_layer, emit_quantized_step
from export.emit.weights import CellWeights
from models.recurrent import RecurrentStack


def emit_stack(
    graph: GraphBuilder,
    name: str,
    stack: RecurrentStack,
    inputs: Sequence[Activation],
    lengths: str,
    states: Sequence[str] | None,
    as_float: bool = False,
) -> tuple[list[Activation], list[str]]:
    """Emit all layers over whole sequences.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        stack: The trained module.
        inputs: (T, B, I_j) each.
        lengths: (B,) int64.
        states: (B, H) each, in the order of `state_names`; None is zeros.
        as_float: Whether the outputs are wanted in float32 whatever the precision.

    Returns:
        Outputs (T, B, ...), together D*H wide and meaningless past the end, and the final states, as `states`.
        All but ids and lengths are of the arithmetic's type.
    """
    if graph.precision == "int8":
        states = _emit_zeros(graph, stack, lengths) if states is None else states
    else:
        counts = graph.op("Cast", lengths, to=TensorProto.INT32)
    per_layer = stack.num_states // stack.layers
    outputs, final = list(inputs), []
    for layer in range(stack.layers):
        prefix = f"{name}.{layer}"
        weights = [CellWeights.from_stack(stack, layer, backward=d == 1) for d in range(stack.directions)]
        mine = None if states is None else states[layer * per_layer : (layer + 1) * per_layer]
        if graph.precision == "int8":
            assert mine is not None
            wanted = as_float and layer == stack.layers - 1
            outputs, last = emit_quantized_layer(graph, prefix, weights, outputs, lengths, mine, wanted)
        else:
            value, last = _emit_layer(graph, prefix, weights, emit_concat(graph, outputs), counts, mine)
            outputs = [Activation(value, stack.output_size)]
        final.extend(last)
    return outputs, final


def emit_step(
    graph: GraphBuilder, name: str, weights: CellWeights, inputs: Sequence[Activation], states: Sequence[str]
) -> list[str]:
    """Emit one step of one layer.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Of the layer, forward.
        inputs: (B, I_j) each.
        states: (B, H) each: hidden, then the cell of an LSTM.

    Returns:
        The new states, likewise.
    """
    if graph.precision == "int8":
        return emit_quantized_step(graph, name, weights, inputs, states)
    if graph.cells != "node":
        return emit_primitive_step(graph, name, weights, inputs, states)
    one_step = graph.op("Unsqueeze", emit_concat(graph, inputs), graph.ints(0))  # (1, B, I)
    return _emit_layer(graph, name, [weights], one_step, None, states)[1]


def emit_chunk(
    graph: GraphBuilder, name: str, stack: RecurrentStack, inputs: Sequence[Activation], states: Sequence[str]
) -> tuple[list[Activation], list[str]]:
    """Emit T steps of all layers for rows that all take T: bit for bit what T runs of `emit_step` give.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        stack: The trained module, one direction.
        inputs: (T, B, I_j) each.
        states: (B, H) each, in the order of `state_names`.

    Returns:
        Outputs (T, B, H) and the states after the last step, as `states`.
    """
    per_layer = stack.num_states // stack.layers
    outputs, final = list(inputs), []
    for layer in range(stack.layers):
        prefix, weights = f"{name}.{layer}", CellWeights.from_stack(stack, layer)
        mine = states[layer * per_layer : (layer + 1) * per_layer]
        if graph.precision == "int8":
            output, last = emit_quantized_chunk(graph, prefix, weights, outputs, mine)
        elif graph.cells != "node":
            value, last = emit_primitive_chunk(graph, prefix, weights, outputs, mine)
            output = Activation(value, stack.output_size)
        else:
            value, last = _emit_layer(graph, prefix, [weights], emit_concat(graph, outputs), None, mine)
            output = Activation(value, stack.output_size)
        outputs = [output]
        final.extend(last)
    return outputs, final


def flatten_steps(graph: GraphBuilder, outputs: Sequence[Activation]) -> list[Activation]:
    """(T, B, ...) -> (T*B, ...): matrices multiply as those of a step, with the bias inside the product."""
    return [replace(one, value=graph.op("Reshape", one.value, graph.ints(-1, one.width))) for one in outputs]


def _emit_layer(
    graph: GraphBuilder,
    name: str,
    weights: Sequence[CellWeights],
    inputs: str,
    lengths: str | None,
    states: Sequence[str] | None,
) -> tuple[str, list[str]]:
    """One layer, forward or both directions, as one node.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Forward, or forward and backward.
        inputs: (T, B, I).
        lengths: (B,) int32; None where every sequence has T steps.
        states: (B, H) each: hidden forward (and backward), then the cells likewise; None is zeros.

    Returns:
        Outputs (T, B, D*H) and the final states, as `states`.
    """
    cell, hidden, directions = weights[0].cell, weights[0].hidden, len(weights)
    matrices = [one.onnx() for one in weights]
    constants = [
        graph.parameter(np.stack([one[i] for one in matrices]), f"{name}.{part}") for i, part in enumerate("WRB")
    ]
    kinds = 2 if cell == "lstm" else 1
    initial = [""] * kinds
    if states is not None:
        initial = [_stack(graph, states[i * directions : (i + 1) * directions]) for i in range(kinds)]
    attributes: dict[str, Any] = {"hidden_size": hidden}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    if cell == "gru":
        attributes["linear_before_reset"] = int(weights[0].reset_after)
    node_inputs = [inputs, *constants, lengths or "", *initial]
    while node_inputs[-1] == "":
        node_inputs.pop()
    outputs, *final = graph.ops(cell.upper(), node_inputs, 1 + kinds, **attributes)  # (T, D, B, H), (D, B, H)
    if directions == 1:
        joined = graph.op("Squeeze", outputs, graph.ints(1))
    else:
        joined = graph.op("Reshape", graph.op("Transpose", outputs, perm=[0, 2, 1, 3]), graph.ints(0, 0, -1))
    return joined, [state for stacked in final for state in _unstack(graph, stacked, directions)]


def _emit_zeros(graph: GraphBuilder, stack: RecurrentStack, lengths: str) -> list[str]:
    """States to start from, (B, H) each."""
    shape = graph.op("Concat", graph.op("Shape", lengths), graph.ints(stack.hidden), axis=0)
    return [graph.op("Expand", graph.scalar(0.0), shape)] * stack.num_states


def _stack(graph: GraphBuilder, states: Sequence[str]) -> str:
    """(B, H) each -> (D, B, H)."""
    expanded = [graph.op("Unsqueeze", state, graph.ints(0)) for state in states]
    return expanded[0] if len(expanded) == 1 else graph.op("Concat", *expanded, axis=0)


def _unstack(graph: GraphBuilder, stacked: str, directions: int) -> list[str]:
    """(D, B, H) -> (B, H) each."""
    return [graph.op("Squeeze", part, graph.ints(0)) for part in graph.split(stacked, directions, axis=0)]
