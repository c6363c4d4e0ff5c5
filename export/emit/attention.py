"""Attention over padded memory whose answer does not depend on the padding, bit for bit.

Reductions over source positions are where a longer batch-mate could show: a vectorised sum groups its terms by their
number, and rounds differently with it. So every sum over positions is a matrix product of more than one column, which
accumulates position by position; what padding adds to it is exactly zero. docs/log.md has the measurements.
"""

import numpy as np

from export.emit.builder import Array, GraphBuilder
from export.emit.weights import to_numpy
from models.attention import Attention

# Columns of the ones that sum the weights: more than one, so that it is the same matrix kernel as for the memory.
_SUM_COLUMNS = 16
_MASKED = -1e9  # exp of it is exactly 0


def emit_attention(
    graph: GraphBuilder, name: str, attention: Attention, query: str, memory: str, keys: str, lengths: str
) -> str:
    """Emit `models.attention.Attention`.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        attention: The trained module.
        query: (B, Q) float32.
        memory: (B, S, M) float32.
        keys: (B, S, A) float32.
        lengths: (B,) int64, at least 1.

    Returns:
        Context (B, M).
    """
    projected = graph.op("MatMul", query, graph.weight(to_numpy(attention.query.weight).T, f"{name}.query.weight"))
    if attention.energy is not None:
        added = graph.op("Add", keys, graph.op("Unsqueeze", projected, graph.ints(1)))
        energy = graph.weight(to_numpy(attention.energy.weight).T, f"{name}.energy.weight")
        scores = graph.op("MatMul", graph.op("Tanh", added), energy)  # (B, S, 1)
    else:
        scores = graph.op("MatMul", keys, graph.op("Unsqueeze", projected, graph.ints(2)))  # (B, S, 1)
        scores = graph.op("Mul", scores, graph.scalar(attention.scale))
    num_positions = graph.op("Shape", keys, start=1, end=2)  # (1,)
    mask = _emit_mask(graph, lengths, num_positions)  # (B, S)
    flat = graph.op("Squeeze", scores, graph.ints(2))  # (B, S)
    masked = graph.op("Where", mask, flat, graph.scalar(_MASKED))
    highest = graph.op("ReduceMax", masked, graph.ints(1), keepdims=1)
    unnormalised = graph.op("Exp", graph.op("Sub", masked, highest))  # (B, S)
    row = graph.op("Unsqueeze", unnormalised, graph.ints(1))  # (B, 1, S)
    ones = graph.op(
        "Expand", graph.scalar(1.0), graph.op("Concat", num_positions, graph.ints(_SUM_COLUMNS), axis=0)
    )  # (S, 16)
    sums = graph.op("Gather", graph.op("MatMul", unnormalised, ones), graph.ints(0), axis=1)  # (B, 1)
    context = graph.op("Squeeze", graph.op("MatMul", row, memory), graph.ints(1))  # (B, M)
    return graph.op("Div", context, sums)


def emit_keys(graph: GraphBuilder, name: str, attention: Attention, memory: str) -> str:
    """Project the memory (B, S, M) to keys (B, S, A)."""
    weight: Array = to_numpy(attention.key.weight).T
    product = graph.op("MatMul", memory, graph.weight(weight, f"{name}.key.weight"))
    return graph.op("Add", product, graph.weight(to_numpy(attention.key.bias), f"{name}.key.bias"))


def _emit_mask(graph: GraphBuilder, lengths: str, num_positions: str) -> str:
    """(B, S) bool, True = real position."""
    last = graph.op("Squeeze", num_positions, graph.ints(0))
    positions = graph.op("Range", graph.constant(np.array(0, np.int64)), last, graph.constant(np.array(1, np.int64)))
    return graph.op("Less", positions, graph.op("Unsqueeze", lengths, graph.ints(1)))
