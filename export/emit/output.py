"""Log-probabilities and the best of them."""

import numpy as np

from export.emit.builder import GraphBuilder
from models.output import NEVER_LOG_PROB, NEVER_NEXT


def emit_next_log_probs(graph: GraphBuilder, logits: str, vocabulary_size: int) -> str:
    """Log-softmax of logits (..., V), then -1e9 for what can never come next."""
    log_probs = graph.op("LogSoftmax", logits, axis=-1)
    return graph.op("Where", never_next(graph, vocabulary_size), graph.scalar(NEVER_LOG_PROB), log_probs)


def never_next(graph: GraphBuilder, vocabulary_size: int) -> str:
    """A constant (V,) bool: what can never come next."""
    never = np.zeros(vocabulary_size, np.bool_)
    never[list(NEVER_NEXT)] = True
    return graph.constant(never)


def emit_top(graph: GraphBuilder, log_probs: str, k: int) -> None:
    """Make the k best of log-probabilities (B, V) outputs, best first; among equals, the lower id comes first."""
    values, indices = graph.ops("TopK", [log_probs, graph.ints(k)], 2, axis=-1, largest=1, sorted=1)
    graph.output(values, "top_log_probs", "float32", ("B", k))
    graph.output(indices, "top_tokens", "int64", ("B", k))
