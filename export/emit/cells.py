"""LSTM and GRU cells out of primitive operators, for int8: the recurrent nodes of ONNX know floats alone.

In int8 the gates are the sum of two integer products, one of the inputs and one of the hidden state. Hidden states are
within (-1, 1), as every cell makes them, and are quantised as such.
"""

from collections.abc import Sequence

import numpy as np

from export.emit.builder import GraphBuilder
from export.emit.linear import Activation, emit_linear
from export.emit.weights import CellWeights


def emit_projected(graph: GraphBuilder, name: str, weights: CellWeights, inputs: Sequence[Activation]) -> str:
    """Emit the inputs' part of the gates, with as much of the biases as the cell allows.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Of the cell.
        inputs: (..., I_j) each.

    Returns:
        (..., G*H).
    """
    bias = weights.bias_ih + weights.bias_hh if weights.cell == "lstm" else weights.bias_ih
    return emit_linear(graph, f"{name}.input", inputs, weights.weight_ih, bias)


def emit_cell(
    graph: GraphBuilder, name: str, weights: CellWeights, projected: str, hidden: Activation, states: Sequence[str]
) -> list[str]:
    """Emit one step.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Of the cell.
        projected: (B, G*H), see `emit_projected`.
        hidden: (B, H), the old hidden state, quantised or not.
        states: (B, H) each, the old states: hidden, then the cell of an LSTM.

    Returns:
        The new states, likewise.
    """
    if weights.cell == "lstm":
        recurrent = emit_linear(graph, f"{name}.recurrent", [hidden], weights.weight_hh, None)
        return _emit_lstm(graph, graph.op("Add", projected, recurrent), states[1])
    if weights.reset_after:
        recurrent = emit_linear(graph, f"{name}.recurrent", [hidden], weights.weight_hh, weights.bias_hh)
        return emit_gru(graph, projected, recurrent, states[0])
    return emit_gru_reset_before(graph, name, weights, projected, hidden, states[0])


def _emit_lstm(graph: GraphBuilder, gates: str, cell: str) -> list[str]:
    """Hidden state and cell (B, H) from gates i, f, g, o (B, 4H) and the old cell."""
    i, f, g, o = graph.split(gates, 4, axis=-1)
    kept = graph.op("Mul", graph.op("Sigmoid", f), cell)
    added = graph.op("Mul", graph.op("Sigmoid", i), graph.op("Tanh", g))
    new = graph.op("Add", kept, added)
    return [graph.op("Mul", graph.op("Sigmoid", o), graph.op("Tanh", new)), new]


def emit_gru(graph: GraphBuilder, projected: str, recurrent: str, hidden: str) -> list[str]:
    """Hidden state (B, H) from the two parts of gates r, z, n (B, 3H), which the reset gate keeps apart."""
    r_in, z_in, n_in = graph.split(projected, 3, axis=-1)
    r_rec, z_rec, n_rec = graph.split(recurrent, 3, axis=-1)
    r = graph.op("Sigmoid", graph.op("Add", r_in, r_rec))
    z = graph.op("Sigmoid", graph.op("Add", z_in, z_rec))
    return _emit_mixed(graph, z, graph.op("Add", n_in, graph.op("Mul", r, n_rec)), hidden)


def emit_gru_reset_before(
    graph: GraphBuilder, name: str, weights: CellWeights, projected: str, read: Activation, hidden: str
) -> list[str]:
    """Hidden state (B, H) where the reset gate multiplies it before the candidate's product: two products in turn."""
    width = weights.hidden
    gates, candidate = np.split(weights.weight_hh, [2 * width])
    gates_bias, candidate_bias = np.split(weights.bias_hh, [2 * width])
    r_in, z_in, n_in = graph.split(projected, 3, axis=-1)
    recurrent = emit_linear(graph, f"{name}.recurrent", [read], gates, gates_bias)
    r_rec, z_rec = graph.split(recurrent, 2, axis=-1)
    r = graph.op("Sigmoid", graph.op("Add", r_in, r_rec))
    z = graph.op("Sigmoid", graph.op("Add", z_in, z_rec))
    kept = Activation(graph.op("Mul", r, hidden), width)
    n_rec = emit_linear(graph, f"{name}.candidate", [kept], candidate, candidate_bias)
    return _emit_mixed(graph, z, graph.op("Add", n_in, n_rec), hidden)


def _emit_mixed(graph: GraphBuilder, z: str, candidate: str, hidden: str) -> list[str]:
    """The new state of a GRU: the update gate's mix of the old one and the candidate, all (B, H)."""
    n = graph.op("Tanh", candidate)
    return [graph.op("Add", n, graph.op("Mul", z, graph.op("Sub", hidden, n)))]
