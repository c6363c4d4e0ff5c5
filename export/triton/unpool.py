"""Take the pools out of a step graph: states become plain inputs and outputs, rows first.

    pool -> Gather(read_slots) -> rows -> step -> new rows -> Scatter(write_slots) -> pool      (as served here)
    state ---------------------> rows -> step -> new rows ---------------------> new state      (as written here)

What lies between is the same nodes, so the same numbers come out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import onnx
from onnx import TensorProto, helper

from export.manifest import StateSpec
from export.triton.errors import TritonError

_SCATTERS: Final = ("ScatterND", "ScatterElements")
_SLOTS: Final = ("read_slots", "write_slots")


@dataclass(frozen=True)
class ExplicitState:
    """A state as the graph has it now.

    Args:
        spec: As in the manifest.
        input: (B, *shape); (B, 1) for a state that is one number.
        output: Alike.
    """

    spec: StateSpec
    input: str
    output: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the rows; the reference server has no states without sizes."""
        return self.spec.shape or (1,)


def unpool(model: onnx.ModelProto, states: Iterable[StateSpec]) -> tuple[onnx.ModelProto, tuple[ExplicitState, ...]]:
    """Make a step graph whose states are inputs and outputs.

    Args:
        model: A step graph; not changed.
        states: Those that it keeps in pools.

    Raises:
        TritonError: The graph uses its pools in another way than by rows.
    """
    unpooled = onnx.ModelProto()
    unpooled.CopyFrom(model)
    graph = unpooled.graph
    explicit = tuple(_unpool_state(graph, state) for state in states)
    _drop_unused(graph)
    if used := {name for node in graph.node for name in reads(node)}.intersection(_SLOTS):
        raise TritonError(f"step graph: expected slots to be used for states alone, got {sorted(used)} elsewhere")
    _remove(graph.input, _SLOTS)
    graph.name = "model"
    return unpooled, explicit


def _unpool_state(graph: onnx.GraphProto, state: StateSpec) -> ExplicitState:
    pool, result = str(state.pool_input), str(state.pool_output)
    readers = [node for node in graph.node if pool in reads(node)]
    gathers = [node for node in readers if node.op_type == "Gather" and list(node.input) == [pool, _SLOTS[0]]]
    scatters = [node for node in readers if node.op_type in _SCATTERS and node.input[0] == pool]
    if len(gathers) != 1 or len(scatters) != 1 or len(readers) != 2 or list(scatters[0].output) != [result]:
        found = [node.op_type for node in readers]
        raise TritonError(f"state {state.name}: expected a Gather and a Scatter of its pool, got {found}")
    rows, new_rows = gathers[0].output[0], scatters[0].input[2]
    declared = next(value for value in graph.input if value.name == pool).type.tensor_type.elem_type
    graph.node.remove(gathers[0])
    graph.node.remove(scatters[0])
    _remove(graph.input, (pool,))
    _remove(graph.output, (result,))
    source, target = state.sequence_input or state.name, state.sequence_output or f"{state.name}_out"
    outside = {value.name for value in (*graph.input, *graph.output)}
    if taken := {source, target} & outside or (source == target and {source}):
        raise TritonError(f"state {state.name}: expected names that are free, got {sorted(taken)}")
    # Inside, the original may go by the very names, in the layout that it has.
    if rows != source or not state.shape:
        rows = _rename(graph, source, rows)
    if new_rows != target or not state.shape:
        new_rows = _rename(graph, target, new_rows)
    _join(graph, source, rows, [-1] if not state.shape else None, first=True)
    _join(graph, new_rows, target, [-1, 1] if not state.shape else None, first=False)
    shape: list[int | str | None] = ["B", *(state.shape or (1,))]
    graph.input.append(helper.make_tensor_value_info(source, declared, shape))
    graph.output.append(helper.make_tensor_value_info(target, declared, shape))
    return ExplicitState(state, source, target)


def _join(graph: onnx.GraphProto, source: str, target: str, shape: list[int] | None, first: bool) -> None:
    """Make one value of another, reshaped where a shape is given."""
    nodes = []
    if shape is not None:
        constant = _free_name(f"{target}_shape", _names(graph) | {source, target})
        value = helper.make_tensor(constant, TensorProto.INT64, [len(shape)], shape)
        nodes.append(helper.make_node("Constant", [], [constant], value=value))
        nodes.append(helper.make_node("Reshape", [source, constant], [target]))
    elif source != target:
        nodes.append(helper.make_node("Identity", [source], [target]))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest] if first else [*rest, *nodes])


def start_from_zeros(model: onnx.ModelProto, states: Iterable[StateSpec], rows_of: str) -> onnx.ModelProto:
    """Make a graph over whole sequences that takes no initial states and returns no final ones.

    Args:
        model: A sequence graph; not changed.
        states: Its states.
        rows_of: An input whose first axis has the rows.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    nodes = [helper.make_node("Shape", [rows_of], ["rows_shape"]), _ints("first_axis", [0])]
    nodes.append(helper.make_node("Gather", ["rows_shape", "first_axis"], ["num_rows"], axis=0))
    for state in states:
        name = str(state.sequence_input)
        nodes.append(_ints(f"{name}_width", list(state.shape)))
        nodes.append(helper.make_node("Concat", ["num_rows", f"{name}_width"], [f"{name}_shape"], axis=0))
        nodes.append(helper.make_node("ConstantOfShape", [f"{name}_shape"], [name]))
        _remove(graph.input, (name,))
        _remove(graph.output, (str(state.sequence_output),))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    _drop_unused(graph)
    graph.name = "model"
    return changed


def _ints(name: str, values: list[int]) -> onnx.NodeProto:
    value = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], [name], value=value)


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its bodies may take from around them included."""
    found = {name for name in node.input if name}
    for body in _bodies(node):
        found |= {value.name for value in body.output}
        for inner in body.node:
            found |= reads(inner)
    return found


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes that no output needs any more."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed |= reads(node)
            kept.append(node)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        names |= {*node.output, *reads(node)}
    return names


def _free_name(base: str, taken: set[str]) -> str:
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def _rename(graph: onnx.GraphProto, old: str, value: str) -> str:
    """Call a value inside a graph something else, so that its name is free; give what `value` is called now."""
    new = _free_name(f"{old}_inside", _names(graph))
    for tensor in graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name
    _rename_in_nodes(graph, old, new)
    return new if value == old else value


def _rename_in_nodes(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for body in _bodies(node):
            own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            if old in own.union(*(inner.output for inner in body.node)):
                continue  # what it calls so is its own
            for value in body.output:
                value.name = new if value.name == old else value.name
            _rename_in_nodes(body, old, new)


def _remove(values: "_Values", names: Iterable[str]) -> None:
    unwanted = set(names)
    for value in [value for value in values if value.name in unwanted]:
        values.remove(value)


class _Values(Protocol):
    """A repeated field of declared values."""

    def __iter__(self) -> Iterator[onnx.ValueInfoProto]: ...
    def remove(self, value: onnx.ValueInfoProto, /) -> None: ...
