"""Recurrent layers in int8, over whole sequences.

The products of the inputs are one product for all steps; a `Scan` does what depends on the step before. It knows
nothing of lengths, which would cost three selections a step: rows go on past their end, where nobody looks, a backward
direction reads its rows turned round, and final states are picked where each row ends.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from export.emit.builder import GraphBuilder
from export.emit.cells import emit_cell, emit_projected
from export.emit.linear import Activation, emit_quantized
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
    hidden = Activation(states[0], weights.hidden)
    return emit_cell(graph, name, weights, emit_projected(graph, name, weights, inputs), hidden, states)


def emit_quantized_chunk(
    graph: GraphBuilder, name: str, weights: CellWeights, inputs: Sequence[Activation], states: Sequence[str]
) -> tuple[Activation, list[str]]:
    """Emit T steps of one layer for rows that all take T: bit for bit what T runs of `emit_quantized_step` give.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Of the layer, forward.
        inputs: (T, B, I_j) each.
        states: (B, H) each: hidden, then the cell of an LSTM.

    Returns:
        Outputs (T, B, H), quantised, and the states after the last step.
    """
    outputs, final, _ = _emit_scan(graph, name, weights, inputs, states, traced=False)
    return outputs, final


def emit_quantized_layer(
    graph: GraphBuilder,
    name: str,
    weights: Sequence[CellWeights],
    inputs: Sequence[Activation],
    lengths: str,
    states: Sequence[str],
    as_float: bool,
) -> tuple[list[Activation], list[str]]:
    """Emit one layer over sequences of different lengths.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Forward, or forward and backward.
        inputs: (T, B, I_j) each.
        lengths: (B,) int64.
        states: (B, H) each: hidden forward (and backward), then the cells likewise.
        as_float: Whether the outputs are wanted in float32, not quantised.

    Returns:
        Outputs (T, B, H) for each direction, anything past the end, and the final states, as `states`.
    """
    directions = len(weights)
    inputs = [emit_quantized(graph, one) for one in inputs]
    ends = _emit_ends(graph, lengths)
    outputs, finals = [], []
    for d, one in enumerate(weights):
        read = inputs if d == 0 else [_emit_reversed(graph, value, lengths) for value in inputs]
        suffix = ("forward", "backward")[d]
        output, _, traces = _emit_scan(graph, f"{name}.{suffix}", one, read, states[d::directions], traced=True)
        output = Activation(traces[0], one.hidden) if as_float else output
        outputs.append(output if d == 0 else _emit_reversed(graph, output, lengths))
        finals.append([graph.op("GatherND", trace, ends) for trace in traces])
    return outputs, [final[kind] for kind in range(len(finals[0])) for final in finals]


def _emit_scan(
    graph: GraphBuilder,
    name: str,
    weights: CellWeights,
    inputs: Sequence[Activation],
    states: Sequence[str],
    traced: bool,
) -> tuple[Activation, list[str], list[str]]:
    """One direction of a layer: outputs (T, B, H), states after step T, and, if traced, after every step (T, B, H)."""
    start = emit_quantized(graph, Activation(states[0], weights.hidden))
    gates = emit_projected(graph, name, weights, inputs)  # (T, B, G*H)
    body = GraphBuilder(f"{name}.body", "int8", prefix=f"{name}.")
    width = ("B", weights.hidden)
    read = Activation(body.input(f"{name}.read", "uint8", width), weights.hidden, quantized=True)
    old = [body.input(f"{name}.old_{i}", "float32", width) for i in range(len(states))]
    projected = body.input(f"{name}.gates", "float32", ("B", weights.weight_ih.shape[0]))
    new = emit_cell(body, name, weights, projected, read, old)
    # The next step and the next layer read the same rounded numbers.
    written = emit_quantized(body, Activation(new[0], weights.hidden)).value
    # One value cannot be two outputs of a body.
    output = body.op("Identity", written)
    traces = [body.op("Identity", state) for state in new] if traced else []
    body.output(written, f"{name}.written", "uint8", width)
    for i, state in enumerate(new):
        body.output(state, f"{name}.new_{i}", "float32", width)
    body.output(output, f"{name}.output", "uint8", width)
    for i, trace in enumerate(traces):
        body.output(trace, f"{name}.trace_{i}", "float32", width)
    _, *rest = graph.ops(
        "Scan",
        [start.value, *states, gates],
        2 + len(states) + len(traces),
        body=body.body(),
        num_scan_inputs=1,
    )
    final, outputs, after_each = rest[: len(states)], rest[len(states)], rest[len(states) + 1 :]
    return Activation(outputs, weights.hidden, quantized=True), final, after_each


def _emit_reversed(graph: GraphBuilder, one: Activation, lengths: str) -> Activation:
    """Turn each row of (T, B, I) round, up to its length; what lies past it stays."""
    return replace(one, value=graph.op("ReverseSequence", one.value, lengths, time_axis=0, batch_axis=1))


def _emit_ends(graph: GraphBuilder, lengths: str) -> str:
    """(B, 2) int64: the last step of each row, and the row."""
    zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
    num_rows = graph.op("Squeeze", graph.op("Shape", lengths), graph.ints(0))
    rows = graph.op("Range", zero, num_rows, one)
    last = graph.op("Sub", lengths, one)
    return graph.op("Concat", *(graph.op("Unsqueeze", part, graph.ints(1)) for part in (last, rows)), axis=1)
