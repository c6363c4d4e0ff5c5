"""Embeddings and affine maps, in the precision of the graph.

In fp32 and fp16 they are what they are in PyTorch, in the type of the graph's arithmetic, inputs and outputs likewise.

int8 is static: every activation that is multiplied is bounded beforehand, by a gate, a tanh, a mean of such, or its
embedding table, so its scale is a constant, and no row's result depends on another row. Weights are symmetric, one
scale an output channel. Integer sums are exact, so batches of any size give the same bits. A product is one operator of
ONNX Runtime, which scales the sums and adds the bias while they are in registers: as MatMulInteger, Cast, Mul and Add,
it takes three more passes over the result.

On x86 without VNNI instructions ONNX Runtime's product of uint8 and int8 may saturate at 16 bits, which costs accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from export.emit.builder import RUNTIME_DOMAIN, Array, GraphBuilder

LEVELS: Final = 127  # int8 steps from zero to the bound
ZERO_POINT: Final = 128  # of activations, which are uint8


@dataclass(frozen=True, eq=False)
class Lookup:
    """Rows of a table.

    Args:
        table: (V, E) float32.
        ids: (...) int64, a graph value.
    """

    table: Array
    ids: str


@dataclass(frozen=True)
class Activation:
    """A graph value that affine maps may read.

    Args:
        value: Its name; (..., I).
        width: I.
        bound: Largest absolute value that it can take; only int8 asks.
        quantized: Whether it is uint8 already, `bound / 127` a step around 128.
        lookup: Where it comes from, if rows of a table is what it is.
    """

    value: str
    width: int
    bound: float = 1.0
    quantized: bool = False
    lookup: Lookup | None = None


def emit_embedding(graph: GraphBuilder, name: str, table: Array, ids: str) -> Activation:
    """Look up rows of a table; in int8 the table itself is kept in 8 bits.

    Args:
        graph: Where to.
        name: Prefix of the table's name.
        table: (V, E) float32.
        ids: (...) int64.

    Returns:
        (..., E).
    """
    width = table.shape[1]
    if graph.precision != "int8":
        value = graph.op("Gather", graph.parameter(table, f"{name}.weight"), ids)
        return Activation(value, width, lookup=Lookup(table, ids))
    bound = float(np.abs(table).max()) or 1.0  # a table of zeros has any scale
    levels = np.round(table / (bound / LEVELS)) + ZERO_POINT
    weight = graph.weight(levels.astype(np.uint8), f"{name}.weight")
    return Activation(graph.op("Gather", weight, ids), width, bound, quantized=True)


def emit_linear(graph: GraphBuilder, name: str, inputs: Sequence[Activation], weight: Array, bias: Array | None) -> str:
    """Emit weight @ [inputs side by side] + bias.

    Args:
        graph: Where to.
        name: Prefix of the weights' names.
        inputs: (..., I_j) each, at least one.
        weight: (O, sum of I_j), as torch has it.
        bias: (O,), or None.

    Returns:
        (..., O), float32 (float16 in an fp16 graph).
    """
    width = sum(one.width for one in inputs)
    if width != weight.shape[1]:
        raise ValueError(f"{name}: expected inputs {weight.shape[1]} wide, got {width}")
    if graph.precision == "int8":
        return _emit_quantized_products(graph, name, inputs, weight, bias)
    total = graph.op("MatMul", emit_concat(graph, inputs), graph.parameter(weight.T, f"{name}.weight"))
    return total if bias is None else graph.op("Add", total, graph.parameter(bias, f"{name}.bias"))


def emit_concat(graph: GraphBuilder, inputs: Sequence[Activation]) -> str:
    """Join values that are not quantised along the last axis."""
    return _concat(graph, [one.value for one in inputs])


def quantize_weight(weight: Array) -> tuple[Array, Array]:
    """Round a weight (O, I) to int8, symmetric, one scale an output channel.

    Returns:
        Levels (O, I) int8 and scales (O,) float32; the weight is about levels * scales[:, None].
    """
    largest = np.abs(weight).max(axis=1)
    scales = np.where(largest > 0, largest / LEVELS, 1.0).astype(np.float32)
    return np.round(weight / scales[:, None]).astype(np.int8), scales


def emit_quantized(graph: GraphBuilder, one: Activation) -> Activation:
    """Round to 8 bits, once for all who read it; values beyond the bound become the bound."""
    if one.quantized:
        return one
    value = graph.op("QuantizeLinear", one.value, graph.scalar(one.bound / LEVELS), _zero_point(graph))
    return replace(one, value=value, quantized=True)


def _emit_quantized_products(
    graph: GraphBuilder, name: str, inputs: Sequence[Activation], weight: Array, bias: Array | None
) -> str:
    """One integer product for all inputs of the same bound; the sum of the products and the bias, float32."""
    blocks = np.split(weight, np.cumsum([one.width for one in inputs])[:-1], axis=1)
    products = []
    for i, bound in enumerate(sorted({one.bound for one in inputs})):
        same = [index for index, one in enumerate(inputs) if one.bound == bound]
        levels, scales = quantize_weight(np.concatenate([blocks[index] for index in same], axis=1))
        operands = [
            _concat(graph, [emit_quantized(graph, inputs[index]).value for index in same]),
            graph.weight(levels.T, f"{name}.weight_{i}"),
            graph.scalar(bound / LEVELS),
            graph.weight(scales, f"{name}.scale_{i}"),
            _zero_point(graph),
        ]
        if bias is not None and i == 0:
            operands += ["", graph.weight(bias, f"{name}.bias")]
        products.append(graph.op("MatMulIntegerToFloat", *operands, domain=RUNTIME_DOMAIN))
    return products[0] if len(products) == 1 else graph.op("Sum", *products)


def _zero_point(graph: GraphBuilder) -> str:
    return graph.constant(np.array(ZERO_POINT, np.uint8))


def _concat(graph: GraphBuilder, values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else graph.op("Concat", *values, axis=-1)
