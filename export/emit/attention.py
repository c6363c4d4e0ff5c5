"""Attention over padded memory whose answer does not depend on the padding, bit for bit.

Sums over source positions are where a longer batch-mate could show: a vectorised sum groups its terms by their number,
and so rounds differently when zeros are appended. Two operators that do so in ONNX Runtime are ReduceSum and MatMul
with one row or one column on the left or right. Matrix products of at least two rows and columns accumulate position
by position, and what padding adds to them is exactly zero: here every row is computed twice. docs/log.md has the
measurements.
"""

import numpy as np

from export.emit.builder import GraphBuilder
from export.emit.weights import to_numpy
from models.attention import Attention

_SUM_COLUMNS = 16  # of the matrix of ones that sums the weights: one vector register
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
    projected = graph.op("Unsqueeze", projected, graph.ints(1))  # (B, 1, A)
    if attention.energy is not None:
        combined = graph.op("Tanh", graph.op("Add", keys, projected))  # (B, S, A)
        energy = graph.weight(to_numpy(attention.energy.weight).T, f"{name}.energy.weight")
    else:
        combined = graph.op("Mul", keys, projected)  # (B, S, A)
        energy = graph.constant(np.full((attention.key.out_features, 1), attention.scale, np.float32))
    scores = graph.op("Squeeze", graph.op("MatMul", combined, energy), graph.ints(2))  # (B, S)
    masked = graph.op("Where", _emit_mask(graph, lengths, scores), scores, graph.scalar(_MASKED))
    highest = graph.op("ReduceMax", masked, graph.ints(1), keepdims=1)
    weights = graph.op("Unsqueeze", graph.op("Exp", graph.op("Sub", masked, highest)), graph.ints(1))
    twice = graph.op("Concat", weights, weights, axis=1)  # (B, 2, S), not yet normalised
    context = graph.op("Gather", graph.op("MatMul", twice, memory), _index(graph, 0), axis=1)  # (B, M)
    ones = graph.op(
        "Expand",
        graph.scalar(1.0),
        graph.op("Concat", graph.op("Shape", scores, start=1), graph.ints(_SUM_COLUMNS), axis=0),
    )  # (S, 16)
    sums = graph.op("Gather", graph.op("MatMul", twice, ones), _index(graph, 0), axis=1)  # (B, 16)
    return graph.op("Div", context, graph.op("Gather", sums, graph.ints(0), axis=1))


def emit_keys(graph: GraphBuilder, name: str, attention: Attention, memory: str) -> str:
    """Project the memory (B, S, M) to keys (B, S, A)."""
    product = graph.op("MatMul", memory, graph.weight(to_numpy(attention.key.weight).T, f"{name}.key.weight"))
    return graph.op("Add", product, graph.weight(to_numpy(attention.key.bias), f"{name}.key.bias"))


def _emit_mask(graph: GraphBuilder, lengths: str, scores: str) -> str:
    """(B, S) bool, True = real position."""
    num_positions = graph.op("Gather", graph.op("Shape", scores), _index(graph, 1))
    positions = graph.op("Range", _index(graph, 0), num_positions, _index(graph, 1))
    return graph.op("Less", positions, graph.op("Unsqueeze", lengths, graph.ints(1)))


def _index(graph: GraphBuilder, value: int) -> str:
    """A constant int64 scalar."""
    return graph.constant(np.array(value, np.int64))
