"""Take the pools out of a step graph: states become plain inputs and outputs, rows first.

    pool -> Gather(read_slots) -> rows -> step -> new rows -> Scatter(write_slots) -> pool      (as served here)
    state ---------------------> rows -> step -> new rows ---------------------> new state      (as written here)

What lies between is the same nodes, so the same numbers come out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import TensorProto, helper

from export.graph.names import all_names, free_name
from export.graph.walk import reads
from export.manifest import StateSpec
from export.triton.editing import drop_unused, remove, rename
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
    drop_unused(graph)
    if used := {name for node in graph.node for name in reads(node)}.intersection(_SLOTS):
        raise TritonError(f"step graph: expected slots to be used for states alone, got {sorted(used)} elsewhere")
    remove(graph.input, _SLOTS)
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
    remove(graph.input, (pool,))
    remove(graph.output, (result,))
    source, target = state.sequence_input or state.name, state.sequence_output or f"{state.name}_out"
    outside = {value.name for value in (*graph.input, *graph.output)}
    if taken := {source, target} & outside or (source == target and {source}):
        raise TritonError(f"state {state.name}: expected names that are free, got {sorted(taken)}")
    # Inside, the original may go by the very names, in the layout that it has.
    if rows != source or not state.shape:
        rows = rename(graph, source, rows)
    if new_rows != target or not state.shape:
        new_rows = rename(graph, target, new_rows)
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
        constant = free_name(f"{target}_shape", {*all_names(graph), source, target})
        value = helper.make_tensor(constant, TensorProto.INT64, [len(shape)], shape)
        nodes.append(helper.make_node("Constant", [], [constant], value=value))
        nodes.append(helper.make_node("Reshape", [source, constant], [target]))
    elif source != target:
        nodes.append(helper.make_node("Identity", [source], [target]))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest] if first else [*rest, *nodes])
