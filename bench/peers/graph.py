"""The step graph that a peer's user would have: states as plain inputs and outputs, no pools.

Made from a bundle's step graph, so that weights and operators are the very same: the rows that the graph gathers from a
pool become inputs, and the rows that it scatters become outputs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.bundle import load_manifest

if TYPE_CHECKING:
    import onnx


def write(bundle: Path, path: Path) -> Path:
    """Write the graph: tokens (B) and states (B, H) in; log_probs (B, V), the top ones (B, k) and states out.

    A state keeps its name as an input and has `_out` behind it as an output.
    """
    import onnx

    manifest = load_manifest(bundle)
    model = onnx.load(bundle / manifest.graphs["step"].file)
    for state in manifest.states:
        _unpool(model.graph, str(state.pool_input), state.name, state.shape)
    used = {name for node in model.graph.node for name in node.input}
    for values in (model.graph.input, model.graph.initializer):
        _keep(values, lambda value: value.name in used)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


def _unpool(graph: "onnx.GraphProto", pool: str, name: str, shape: tuple[int, ...]) -> None:
    from onnx import TensorProto, helper

    (gather,) = (node for node in graph.node if node.op_type == "Gather" and node.input[0] == pool)
    (scatter,) = (node for node in graph.node if node.op_type == "ScatterND" and node.input[0] == pool)
    renamed = {gather.output[0]: name, scatter.input[2]: f"{name}_out"}
    indices, scattered = scatter.input[1], scatter.output[0]
    for node in (gather, scatter):
        graph.node.remove(node)
    if not any(indices in node.input for node in graph.node):
        _keep(graph.node, lambda node: indices not in node.output)
    _keep(graph.output, lambda value: value.name != scattered)
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape]))
    graph.output.append(helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["B", *shape]))


def _keep(values: Any, wanted: Callable[[Any], bool]) -> None:
    """Drop from a repeated field, in place, what is not wanted."""
    kept = [value for value in values if wanted(value)]
    del values[:]
    values.extend(kept)
