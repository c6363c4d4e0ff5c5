"""Recurrent layers out of primitive operators, for the variants of a step: what a GPU may run quicker than its nodes.

An LSTM is one product of inputs and hidden state side by side; the reset gate of a GRU keeps the two apart, so that it
has two. In a folded graph the product of an embedding with its part of the weights, and the bias, is one lookup in the
table of these products, (V, G*H).

A chunk is a `Scan` over the very operators of a step: to multiply the inputs of all steps at once would sum in another
order, and a chunk must be its steps, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from export.emit.builder import Array, GraphBuilder
from export.emit.cells import emit_gru, emit_gru_reset_before
from export.emit.linear import Activation, Lookup, emit_concat
from export.emit.weights import CellWeights
from export.manifest import Variant

# Of a folded table in float32; a larger one would be read from far, and the step and chunk graphs hold one each.
MOST_FOLDED_BYTES: Final = 256 * 2**20
# Positions of torch's gates of an LSTM (i, f, g, o) with those of one function side by side: i, f, o, g.
_BY_FUNCTION: Final = (0, 1, 3, 2)


@dataclass(frozen=True)
class _Read:
    """What a layer reads besides its states.

    Args:
        weights: Of the layer, without the columns that were folded; an LSTM's gates by function.
        inputs: (..., I) to be multiplied; None where everything was folded.
        rows: (..., G*H), the folded product and the bias; None where nothing was.
    """

    weights: CellWeights
    inputs: Activation | None
    rows: str | None


def variants_of(weights: CellWeights, vocabulary_size: int) -> tuple[Variant, ...]:
    """Which variants a step is given: the folded one just if its table stays within bounds.

    Args:
        weights: Of the first layer.
        vocabulary_size: V, rows of the embedding that it reads.
    """
    table_bytes = vocabulary_size * len(weights.weight_ih) * np.dtype(np.float32).itemsize
    return ("primitive", "folded") if table_bytes <= MOST_FOLDED_BYTES else ("primitive",)


def emit_primitive_step(
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
    return _emit_cell(graph, name, _emit_read(graph, name, weights, inputs), states)


def emit_primitive_chunk(
    graph: GraphBuilder, name: str, weights: CellWeights, inputs: Sequence[Activation], states: Sequence[str]
) -> tuple[str, list[str]]:
    """Emit T steps of one layer for rows that all take T: bit for bit what T runs of `emit_primitive_step` give.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        weights: Of the layer, forward.
        inputs: (T, B, I_j) each.
        states: (B, H) each: hidden, then the cell of an LSTM.

    Returns:
        Outputs (T, B, H) and the states after the last step.
    """
    read = _emit_read(graph, name, weights, inputs)
    body = GraphBuilder(f"{name}.body", graph.precision, prefix=f"{name}.", cells=graph.cells)
    width = ("B", weights.hidden)
    old = [body.input(f"{name}.old_{i}", body.arithmetic, width) for i in range(len(states))]
    scanned, now = [], read
    if read.inputs is not None:
        scanned.append(read.inputs.value)
        value = body.input(f"{name}.inputs", body.arithmetic, ("B", read.inputs.width))
        now = replace(now, inputs=Activation(value, read.inputs.width))
    if read.rows is not None:
        scanned.append(read.rows)
        now = replace(now, rows=body.input(f"{name}.rows", body.arithmetic, ("B", len(weights.weight_ih))))
    new = _emit_cell(body, name, now, old)
    output = body.op("Identity", new[0])  # one value cannot be two outputs of a body
    for i, state in enumerate(new):
        body.output(state, f"{name}.new_{i}", body.arithmetic, width)
    body.output(output, f"{name}.output", body.arithmetic, width)
    *final, outputs = graph.ops(
        "Scan", [*states, *scanned], len(states) + 1, body=body.body(), num_scan_inputs=len(scanned)
    )
    return outputs, final


def _emit_read(graph: GraphBuilder, name: str, weights: CellWeights, inputs: Sequence[Activation]) -> _Read:
    """Join what is multiplied, and look up what was folded."""
    weights = _by_function(weights) if weights.cell == "lstm" else weights
    blocks = np.split(weights.weight_ih, np.cumsum([one.width for one in inputs])[:-1], axis=1)
    # Of several embeddings the first: a second table would be one more pass over the gates.
    folded = next((i for i, one in enumerate(inputs) if graph.cells == "folded" and one.lookup is not None), None)
    rows = None
    if folded is not None:
        lookup = inputs[folded].lookup
        assert lookup is not None
        table = graph.parameter(_fold(lookup, blocks[folded], weights), f"{name}.folded")
        rows = graph.op("Gather", table, lookup.ids)
    kept = [i for i in range(len(inputs)) if i != folded]
    if not kept:
        return _Read(weights, None, rows)
    weights = replace(weights, weight_ih=np.concatenate([blocks[i] for i in kept], axis=1))
    joined = Activation(emit_concat(graph, [inputs[i] for i in kept]), weights.weight_ih.shape[1])
    return _Read(weights, joined, rows)


def _fold(lookup: Lookup, block: Array, weights: CellWeights) -> Array:
    """(V, G*H): what each row of the table gives to the gates, with the bias; summed in float64."""
    products = lookup.table.astype(np.float64) @ block.T.astype(np.float64) + _input_bias(weights)
    return products.astype(np.float32)


def _input_bias(weights: CellWeights) -> Array:
    """What can be added to the inputs' part of the gates: a GRU's candidate has a bias behind its reset gate."""
    return weights.bias_ih + weights.bias_hh if weights.cell == "lstm" else weights.bias_ih


def _emit_cell(graph: GraphBuilder, name: str, read: _Read, states: Sequence[str]) -> list[str]:
    weights, hidden = read.weights, Activation(states[0], read.weights.hidden)
    if weights.cell == "lstm":
        joined = hidden.value if read.inputs is None else emit_concat(graph, [read.inputs, hidden])
        matrix = weights.weight_hh
        if read.inputs is not None:
            matrix = np.concatenate([weights.weight_ih, weights.weight_hh], axis=1)
        gates = _emit_product(graph, f"{name}.joined", joined, matrix, _added(graph, name, read))
        return _emit_lstm(graph, gates, states, weights.hidden)
    projected = read.rows
    if read.inputs is not None:
        added = _added(graph, name, read)
        projected = _emit_product(graph, f"{name}.input", read.inputs.value, weights.weight_ih, added)
    assert projected is not None
    if not weights.reset_after:
        return emit_gru_reset_before(graph, name, weights, projected, hidden, states[0])
    bias = graph.parameter(weights.bias_hh, f"{name}.recurrent.bias")
    recurrent = _emit_product(graph, f"{name}.recurrent", states[0], weights.weight_hh, bias)
    return emit_gru(graph, projected, recurrent, states[0])


def _added(graph: GraphBuilder, name: str, read: _Read) -> str:
    """What is added to the product of the inputs: the folded rows, which hold the bias, or the bias."""
    return graph.parameter(_input_bias(read.weights), f"{name}.bias") if read.rows is None else read.rows


def _emit_product(graph: GraphBuilder, name: str, value: str, matrix: Array, added: str) -> str:
    """Multiply a value (B, I) by the transpose of a matrix (O, I), and add (O,) or (B, O)."""
    return graph.op("Gemm", value, graph.parameter(matrix.T, f"{name}.weight"), added)


def _by_function(weights: CellWeights) -> CellWeights:
    """The same LSTM with its gates in the order i, f, o, g."""

    def reorder(array: Array) -> Array:
        blocks = np.split(array, 4)
        return np.concatenate([blocks[gate] for gate in _BY_FUNCTION])

    return replace(
        weights,
        weight_ih=reorder(weights.weight_ih),
        weight_hh=reorder(weights.weight_hh),
        bias_ih=reorder(weights.bias_ih),
        bias_hh=reorder(weights.bias_hh),
    )


def _emit_lstm(graph: GraphBuilder, gates: str, states: Sequence[str], hidden: int) -> list[str]:
    """Hidden state and cell (B, H) from gates i, f, o, g (B, 4H): each function once, as each is a kernel on a GPU."""
    opened, g = graph.ops("Split", [gates, graph.ints(3 * hidden, hidden)], 2, axis=-1)
    i, f, o = graph.split(graph.op("Sigmoid", opened), 3, axis=-1)
    new = graph.op("Add", graph.op("Mul", f, states[1]), graph.op("Mul", i, graph.op("Tanh", g)))
    return [graph.op("Mul", o, graph.op("Tanh", new)), new]
