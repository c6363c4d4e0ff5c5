"""LSTM and GRU layers out of primitive operators, for int8: the recurrent nodes of ONNX know floats alone.

Hidden states are within (-1, 1), as every cell makes them, and are quantised as such.
"""

from collections.abc import Sequence

from export.emit.builder import GraphBuilder
from export.emit.linear import Activation, emit_linear
from export.emit.weights import CellWeights


def emit_quantized_step(
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
    return _emit_cell(graph, name, weights, _emit_projected(graph, name, weights, inputs), states)


def emit_quantized_layer(
    graph: GraphBuilder,
    name: str,
    weights: CellWeights,
    inputs: Sequence[Activation],
    mask: str | None,
    states: Sequence[str],
    backward: bool = False,
) -> tuple[str, list[str]]:
    """Emit one layer and direction over whole sequences: inputs projected for all steps at once, then a `Scan`.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Of the layer and direction.
        inputs: (T, B, I_j) each.
        mask: (T, B, 1) bool, True = real step; elsewhere states stay and outputs are zero. None: all steps are real,
            and the result is bit for bit that of T runs of `emit_quantized_step`.
        states: (B, H) each: hidden, then the cell of an LSTM.
        backward: Whether to go from the last step to the first.

    Returns:
        Outputs (T, B, H) and the final states, as `states`.
    """
    gates = _emit_projected(graph, name, weights, inputs)  # (T, B, G*H)
    body = GraphBuilder(f"{name}.body", "int8", prefix=f"{name}.")
    width = ("B", weights.hidden)
    old = [body.input(f"{name}.old_{i}", "float32", width) for i in range(len(states))]
    projected = body.input(f"{name}.gates", "float32", ("B", weights.weight_ih.shape[0]))
    new = _emit_cell(body, name, weights, projected, old)
    if mask is None:
        # Two outputs of a body may not be one value.
        step = body.op("Identity", new[0])
    else:
        real = body.input(f"{name}.real", "bool", ("B", 1))
        step = body.op("Where", real, new[0], body.scalar(0.0))
        new = [body.op("Where", real, after, before) for before, after in zip(old, new, strict=True)]
    for i, state in enumerate(new):
        body.output(state, f"{name}.new_{i}", "float32", width)
    body.output(step, f"{name}.step", "float32", width)
    scanned = [gates] if mask is None else [gates, mask]
    *final, outputs = graph.ops(
        "Scan",
        [*states, *scanned],
        len(states) + 1,
        body=body.body(),
        num_scan_inputs=len(scanned),
        scan_input_directions=[int(backward)] * len(scanned),
        scan_output_directions=[int(backward)],
    )
    return outputs, final


def _emit_projected(graph: GraphBuilder, name: str, weights: CellWeights, inputs: Sequence[Activation]) -> str:
    """The inputs' part of the gates, (..., G*H), with as much of the biases as the cell allows."""
    bias = weights.bias_ih + weights.bias_hh if weights.cell == "lstm" else weights.bias_ih
    return emit_linear(graph, f"{name}.input", inputs, weights.weight_ih, bias)


def _emit_cell(
    graph: GraphBuilder, name: str, weights: CellWeights, projected: str, states: Sequence[str]
) -> list[str]:
    """New states (B, H) each from the inputs' part of the gates (B, G*H) and the old states."""
    hidden = [Activation(states[0], weights.hidden)]
    if weights.cell == "lstm":
        recurrent = emit_linear(graph, f"{name}.recurrent", hidden, weights.weight_hh, None)
        return _emit_lstm(graph, graph.op("Add", projected, recurrent), states[1])
    recurrent = emit_linear(graph, f"{name}.recurrent", hidden, weights.weight_hh, weights.bias_hh)
    return _emit_gru(graph, projected, recurrent, states[0])


def _emit_lstm(graph: GraphBuilder, gates: str, cell: str) -> list[str]:
    """Hidden state and cell (B, H) from gates i, f, g, o (B, 4H) and the old cell."""
    i, f, g, o = graph.split(gates, 4, axis=-1)
    kept = graph.op("Mul", graph.op("Sigmoid", f), cell)
    added = graph.op("Mul", graph.op("Sigmoid", i), graph.op("Tanh", g))
    new = graph.op("Add", kept, added)
    return [graph.op("Mul", graph.op("Sigmoid", o), graph.op("Tanh", new)), new]


def _emit_gru(graph: GraphBuilder, projected: str, recurrent: str, hidden: str) -> list[str]:
    """Hidden state (B, H) from the two parts of gates r, z, n (B, 3H), which the reset gate keeps apart."""
    r_in, z_in, n_in = graph.split(projected, 3, axis=-1)
    r_rec, z_rec, n_rec = graph.split(recurrent, 3, axis=-1)
    r = graph.op("Sigmoid", graph.op("Add", r_in, r_rec))
    z = graph.op("Sigmoid", graph.op("Add", z_in, z_rec))
    n = graph.op("Tanh", graph.op("Add", n_in, graph.op("Mul", r, n_rec)))
    return [graph.op("Add", n, graph.op("Mul", z, graph.op("Sub", hidden, n)))]
