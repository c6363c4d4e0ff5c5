"""Recurrent layers as ONNX LSTM and GRU nodes, one a layer.

ONNX Runtime takes time-major inputs (T, B, I) and no projection; `sequence_lens` gives what packed sequences give in
torch: zeros past the end, final states after the last valid step, the backward direction starting there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from export.emit.builder import GraphBuilder
from export.emit.weights import CellWeights
from models.recurrent import RecurrentStack


def emit_layer(
    graph: GraphBuilder,
    name: str,
    weights: Sequence[CellWeights],
    inputs: str,
    lengths: str | None,
    states: Sequence[str] | None,
) -> tuple[str, list[str]]:
    """Emit one layer over whole sequences.

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
    constants = [graph.weight(np.stack([one[i] for one in matrices]), f"{name}.{part}") for i, part in enumerate("WRB")]
    kinds = 2 if cell == "lstm" else 1
    initial = [""] * kinds
    if states is not None:
        initial = [_stack(graph, states[i * directions : (i + 1) * directions]) for i in range(kinds)]
    attributes: dict[str, Any] = {"hidden_size": hidden}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    if cell == "gru":
        attributes["linear_before_reset"] = 1  # torch resets after the recurrent product
    node_inputs = [inputs, *constants, lengths or "", *initial]
    while node_inputs[-1] == "":
        node_inputs.pop()
    outputs, *final = graph.ops(cell.upper(), node_inputs, 1 + kinds, **attributes)  # (T, D, B, H), (D, B, H)
    if directions == 1:
        joined = graph.op("Squeeze", outputs, graph.ints(1))
    else:
        joined = graph.op("Reshape", graph.op("Transpose", outputs, perm=[0, 2, 1, 3]), graph.ints(0, 0, -1))
    return joined, [state for stacked in final for state in _unstack(graph, stacked, directions)]


def emit_stack(
    graph: GraphBuilder,
    name: str,
    stack: RecurrentStack,
    inputs: str,
    lengths: str | None,
    states: Sequence[str] | None,
) -> tuple[str, list[str]]:
    """Emit all layers of a stack; arguments and results as of `emit_layer`, states in the order of `state_names`."""
    per_layer = stack.num_states // stack.layers
    final: list[str] = []
    for layer in range(stack.layers):
        weights = [CellWeights.from_stack(stack, layer, backward=d == 1) for d in range(stack.directions)]
        mine = None if states is None else states[layer * per_layer : (layer + 1) * per_layer]
        inputs, last = emit_layer(graph, f"{name}.{layer}", weights, inputs, lengths, mine)
        final.extend(last)
    return inputs, final


def emit_step(graph: GraphBuilder, name: str, weights: CellWeights, inputs: str, states: Sequence[str]) -> list[str]:
    """Emit one step of one layer.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Of the layer, forward.
        inputs: (B, I).
        states: (B, H) each: hidden, then the cell of an LSTM.

    Returns:
        The new states, likewise.
    """
    _, final = emit_layer(graph, name, [weights], graph.op("Unsqueeze", inputs, graph.ints(0)), None, states)
    return final


def _stack(graph: GraphBuilder, states: Sequence[str]) -> str:
    """(B, H) each -> (D, B, H)."""
    expanded = [graph.op("Unsqueeze", state, graph.ints(0)) for state in states]
    return expanded[0] if len(expanded) == 1 else graph.op("Concat", *expanded, axis=0)


def _unstack(graph: GraphBuilder, stacked: str, directions: int) -> list[str]:
    """(D, B, H) -> (B, H) each."""
    return [graph.op("Squeeze", part, graph.ints(0)) for part in graph.split(stacked, directions, axis=0)]
