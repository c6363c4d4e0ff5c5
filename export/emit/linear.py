"""Affine maps of one or several inputs side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.emit.builder import Array, GraphBuilder


@dataclass(frozen=True)
class Part:
    """One input of an affine map.

    Args:
        value: Name of the graph value, (..., I).
        weight: (O, I), as torch has it.
    """

    value: str
    weight: Array


def concatenate(graph: GraphBuilder, values: Sequence[str]) -> str:
    """Join values along the last axis."""
    return values[0] if len(values) == 1 else graph.op("Concat", *values, axis=-1)


def emit_linear(graph: GraphBuilder, name: str, parts: Sequence[Part], bias: Array | None) -> str:
    """Emit sum of weight @ value over the parts + bias.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        parts: At least one.
        bias: (O,), or None.

    Returns:
        (..., O).
    """
    weight = np.concatenate([part.weight for part in parts], axis=1).T
    product = graph.op(
        "MatMul", concatenate(graph, [part.value for part in parts]), graph.weight(weight, f"{name}.weight")
    )
    return product if bias is None else graph.op("Add", product, graph.weight(bias, f"{name}.bias"))
