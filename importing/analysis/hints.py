"""What a graph tells of its inputs: how many values an index has, what a switch is compared with, which widths fit."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from export.graph.walk import all_nodes
from importing.signature import Array

_THROUGH: Final = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_COMPARES: Final = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_MOST_WIDTHS: Final = 12
_MOST_CONSTANT: Final = 16  # elements of what an input is compared with


def index_ranges(model: onnx.ModelProto) -> dict[str, int]:
    """By input, how many values from zero index whatever it is looked up in, as token ids do in an embedding."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    sources = _sources(model.graph)
    ranges: dict[str, int] = {}
    for node in all_nodes(model.graph):
        if node.op_type != "Gather" or node.input[0] not in sizes or node.input[1] not in sources:
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        size, name = sizes[node.input[0]][axis], sources[node.input[1]]
        ranges[name] = min(size, ranges.get(name, size))
    return ranges


def compared_values(model: onnx.ModelProto) -> dict[str, list[float]]:
    """By input, the numbers that the graph compares it with, as it does with the sampling rates that it knows."""
    sources = _sources(model.graph)
    constants = _constants(model.graph)
    found: dict[str, list[float]] = {}
    for node in all_nodes(model.graph):
        if node.op_type not in _COMPARES:
            continue
        for one, other in (tuple(node.input), tuple(reversed(node.input))):
            if one in sources and other in constants:
                found.setdefault(sources[one], []).extend(float(x) for x in constants[other].ravel())
    return found


def widths(model: onnx.ModelProto) -> list[int]:
    """Sizes that weights have, the most frequent first: what meets them has one of these too."""
    sizes = Counter(size for tensor in model.graph.initializer for size in tensor.dims if size > 1)
    return [size for size, _ in sizes.most_common(_MOST_WIDTHS)]


def _sources(graph: onnx.GraphProto) -> Mapping[str, str]:
    """By value, the input that it is, but for its shape and type."""
    sources = {info.name: info.name for info in graph.input}
    for node in all_nodes(graph):
        if node.op_type in _THROUGH and node.input and node.input[0] in sources:
            sources[node.output[0]] = sources[node.input[0]]
    return sources


def _constants(graph: onnx.GraphProto) -> Mapping[str, Array]:
    """Small constants, by value."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in all_nodes(graph):
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                tensors[node.output[0]] = attribute.t
    small = {name: tensor for name, tensor in tensors.items() if np.prod(tensor.dims) <= _MOST_CONSTANT}
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in small.items()}
    return {name: array for name, array in arrays.items() if array.dtype.kind in "iufb"}
