"""What a graph computes from the number of rows, element by element: shapes for the most part.

The values of one run say what does not depend on the rows; what does is computed as `Count`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from importing.analysis.counts import MOST_ROWS, Count, NotCounted, absolute, divide, is_equal, is_less, remainder
from importing.errors import ImportRefused
from importing.session import RunFailed, Session
from importing.signature import Array

# What only moves elements about: which of their inputs have those that are moved.
_MOVES: Final[Mapping[str, slice]] = {
    "Concat": slice(None),
    **dict.fromkeys(
        ("Expand", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
        slice(1),
    ),
}
_ALIKE: Final = frozenset({"Cast", "Ceil", "Floor", "Identity", "Round"})  # whole numbers stay what they are


def _choose(condition: Any, one: Any, other: Any) -> Any:
    return one if condition else other


def _either(pick: Callable[[bool], bool]) -> Callable[[Any, Any], Any]:
    return lambda one, other: one if pick(is_less(one, other)) else other


_BY_ELEMENT: Final[Mapping[str, Callable[..., Any]]] = {
    "Abs": absolute,
    "Add": lambda one, other: one + other,
    "Div": divide,
    "Equal": is_equal,
    "Greater": lambda one, other: is_less(other, one),
    "GreaterOrEqual": lambda one, other: not is_less(one, other),
    "Less": is_less,
    "LessOrEqual": lambda one, other: not is_less(other, one),
    "Max": _either(lambda less: not less),
    "Min": _either(lambda less: less),
    "Mod": remainder,
    "Mul": lambda one, other: one * other,
    "Neg": lambda one: -one,
    "Sub": lambda one, other: one - other,
    "Where": _choose,
}
_REDUCE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "ReduceMax": _BY_ELEMENT["Max"],
    "ReduceMin": _BY_ELEMENT["Min"],
    "ReduceProd": _BY_ELEMENT["Mul"],
    "ReduceSum": _BY_ELEMENT["Add"],
}


def compute(node: onnx.NodeProto, inputs: list[Array], opset: int) -> list[Array]:
    """Compute what a node gives, of inputs with elements that depend on the rows.

    Args:
        node: Of ONNX's own operators.
        inputs: Those that have such elements as arrays of objects, others as they were in a run.
        opset: Of the standard operators.

    Returns:
        By output, an array of objects; elements that do not depend on the rows have any value.

    Raises:
        NotCounted: It cannot be said for all numbers of rows.
    """
    kind = node.op_type
    if kind in _ALIKE:
        return [inputs[0]]
    if kind in _MOVES:
        return _move(node, inputs, opset)
    if kind in _BY_ELEMENT:
        return [_by_element(_BY_ELEMENT[kind], inputs)]
    if kind in _REDUCE:
        return [_reduce(node, inputs, _REDUCE[kind])]
    raise NotCounted


def has_counts(array: Array) -> bool:
    """Whether any element depends on the number of rows."""
    return any(isinstance(element, Count) for element in array.ravel())


def settled(computed: Array, seen: Array, num_rows: int) -> Array:
    """Elements that do not depend on the rows as they were in a run.

    Raises:
        NotCounted: What was computed is not what the run gave, or what runs of more rows give: their type cannot hold
            it.
    """
    if computed.shape != seen.shape:
        raise NotCounted
    result = seen.astype(object)
    for index, element in np.ndenumerate(computed):
        if isinstance(element, Count):
            if element.at(num_rows) != seen[index] or not _holds(seen.dtype, element):
                raise NotCounted
            result[index] = element
    return result


def _holds(dtype: np.dtype[Any], count: Count) -> bool:
    """Whether a type has the number itself, whole, for all numbers of rows that are thought of."""
    largest = sum(abs(coefficient) * MOST_ROWS**power for power, coefficient in enumerate(count.coefficients))
    if dtype.kind == "f":
        return bool(largest <= 2 ** (np.finfo(dtype).nmant + 1))
    if dtype.kind not in "iu":
        return False
    return bool(largest <= np.iinfo(dtype).max) and (dtype.kind == "i" or not is_less(count, 0))


def _by_element(operation: Callable[..., Any], inputs: list[Array]) -> Array:
    def apply(*values: Any) -> Any:
        return operation(*values) if any(isinstance(value, Count) for value in values) else 0

    if len(inputs) > 2 and operation is not _choose:  # of any number
        return functools.reduce(lambda one, other: _by_element(operation, [one, other]), inputs)
    objects = [array.astype(object) for array in inputs]
    return np.asarray(np.frompyfunc(apply, len(objects), 1)(*objects), dtype=object)


def _reduce(node: onnx.NodeProto, inputs: list[Array], operation: Callable[[Any, Any], Any]) -> Array:
    """To one number; other axes are seldom reduced in shapes."""
    if inputs[0].ndim != 1 or (len(inputs) > 1 and inputs[1].size != 1):
        raise NotCounted
    keep = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
    result = np.empty((1,) if keep else (), dtype=object)
    result[...] = functools.reduce(operation, inputs[0])
    return result


def _move(node: onnx.NodeProto, inputs: list[Array], opset: int) -> list[Array]:
    """Move numbers of elements in their place, and see where they went."""
    moved = range(len(inputs))[_MOVES[node.op_type]]
    if any(has_counts(array) for index, array in enumerate(inputs) if index not in moved):
        raise NotCounted
    elements: list[Any] = []
    feeds: dict[str, Array] = {}
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    for index, array in enumerate(inputs):
        given = bare.input[index]
        if not given:
            continue
        bare.input[index] = f"input_{index}"
        if index in moved:
            feeds[bare.input[index]] = np.arange(len(elements), len(elements) + array.size).reshape(array.shape)
            elements.extend(array.ravel())
        else:
            feeds[bare.input[index]] = array
    bare.output[:] = [f"output_{index}" for index in range(len(node.output))]
    graph = helper.make_graph(
        [bare],
        "move",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in bare.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        places = Session(model).run(feeds)
    except (ImportRefused, RunFailed) as error:
        raise NotCounted from error
    pool = np.empty(len(elements), dtype=object)
    pool[:] = elements
    return [np.asarray(pool[places[name]], dtype=object) for name in bare.output]
