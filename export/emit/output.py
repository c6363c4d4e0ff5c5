"""Log-probabilities and the best of them."""

import numpy as np

from export.emit.builder import GraphBuilder
from models.symbols import NEVER_LOG_PROB, NEVER_NEXT


def emit_next_log_probs(graph: GraphBuilder, logits: str, vocabulary_size: int) -> str:
    """Log-softmax of logits (..., V), then -1e9 for what can never come next."""
    log_probs = graph.op("LogSoftmax", logits, axis=-1)
    # Min takes one pass over the vocabulary, Where three.
    return graph.op("Min", log_probs, ceilings(graph, vocabulary_size))


def ceilings(graph: GraphBuilder, vocabulary_size: int) -> str:
    """A constant (V,) float32, the highest log-probability of each token: -1e9 for what can never come next, else 0."""
    highest = np.zeros(vocabulary_size, np.float32)
    highest[list(NEVER_NEXT)] = NEVER_LOG_PROB
    return graph.constant(highest)


def emit_top(graph: GraphBuilder, log_probs: str, k: int) -> None:
    """Make the k best of log-probabilities (B, V) outputs, best first; among equals, the lower id comes first."""
    values, indices = _emit_top_k(graph, log_probs, k)
    graph.output(values, "top_log_probs", "float32", ("B", k))
    graph.output(indices, "top_tokens", "int64", ("B", k))


def emit_top_of_chunk(graph: GraphBuilder, log_probs: str, rows: str, k: int) -> None:
    """Make the k best of every step of a chunk outputs (B, T, k), as `emit_top` does.

    Args:
        graph: Where to.
        log_probs: (T*B, V), time first.
        rows: (B,), whatever they hold; they say what B is.
        k: How many.
    """
    shape = graph.op("Concat", graph.ints(-1), graph.op("Shape", rows), graph.ints(k), axis=0)
    values, indices = (
        graph.op("Transpose", graph.op("Reshape", best, shape), perm=[1, 0, 2])
        for best in _emit_top_k(graph, log_probs, k)
    )
    graph.output(values, "top_log_probs", "float32", ("B", "T", k))
    graph.output(indices, "top_tokens", "int64", ("B", "T", k))


def _emit_top_k(graph: GraphBuilder, log_probs: str, k: int) -> tuple[str, ...]:
    return graph.ops("TopK", [log_probs, graph.ints(k)], 2, axis=-1, largest=1, sorted=1)
