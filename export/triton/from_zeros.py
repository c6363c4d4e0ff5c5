"""A graph over whole sequences without its states: all of them start from zeros, and where they end nobody asks."""

from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper

from export.manifest import StateSpec
from export.triton.editing import drop_unused, remove


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
        remove(graph.input, (name,))
        remove(graph.output, (str(state.sequence_output),))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    drop_unused(graph)
    graph.name = "model"
    return changed


def _ints(name: str, values: list[int]) -> onnx.NodeProto:
    value = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], [name], value=value)
