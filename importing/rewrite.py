"""Rewrite a model into the form that is served: rows first, and states that lie in pools.

    pool (N, *shape) -> Gather(read_slots) -> to the model's own axis -> the model as it was -> back -> Scatter -> pool

Between the gathered and the scattered nothing is changed. Every pool must be read before it is written, since both are
one buffer. That holds by itself where a state's next value is computed from the state; where it is not (a delay line
that keeps its input, two states that change places), the scatter is made to wait for the gather.
"""

from collections.abc import Sequence
from typing import Any, Final

import onnx
from onnx import TensorProto, helper, version_converter

from export.graph.names import rename_values
from export.graph.types import ELEMENT_TYPES
from export.graph.walk import depends
from export.manifest import GraphSpec, TensorSpec
from importing.errors import ImportRefused
from importing.layout import READ_SLOTS, WRITE_SLOTS, Layout, OwnTensor, StateTensor
from importing.names import Names

_SCATTER_OPSET: Final = 11  # the first with ScatterND
_AXES_INPUT_OPSET: Final = 13  # the first whose Squeeze and Unsqueeze take axes as an input
_OPSET: Final = 17  # of what we add to a model that has only operators of its own


def rewrite(model: onnx.ModelProto, layout: Layout) -> tuple[onnx.ModelProto, GraphSpec]:
    """Make the graph that is served.

    Args:
        model: The original; not changed.
        layout: Of it.

    Returns:
        The new model, `step` if there is state and `run` if not, and what it takes and gives.

    Raises:
        ImportRefused: The names or the operator set do not allow it.
    """
    return _Rewrite(model, layout).build()


class _Rewrite:
    """One rewriting."""

    def __init__(self, model: onnx.ModelProto, layout: Layout) -> None:
        self._layout = layout
        self._model = _with_opset(model, _SCATTER_OPSET if layout.states else 1)
        self._opset = default_opset(self._model)
        self._graph = self._model.graph
        self._before: list[onnx.NodeProto] = []
        self._after: list[onnx.NodeProto] = []
        self._inner: dict[str, str] = {}  # by name of a value in the original, its name now
        self._names = Names(self._graph)
        self._make_way()

    def build(self) -> tuple[onnx.ModelProto, GraphSpec]:
        layout = self._layout
        inputs = [tensor.spec() for tensor in layout.inputs]
        outputs = [tensor.spec() for tensor in layout.outputs]
        for tensor in layout.inputs:
            self._own_input(tensor)
        for tensor in layout.outputs:
            self._own_output(tensor)
        if layout.states:
            specs = [state.spec() for state in layout.states]
            inputs += [TensorSpec(name=name, dtype="int64", shape=("B",)) for name in (READ_SLOTS, WRITE_SLOTS)]
            inputs += [TensorSpec(name=str(s.pool_input), dtype=s.dtype, shape=("N", *s.shape)) for s in specs]
            outputs += [TensorSpec(name=str(s.pool_output), dtype=s.dtype, shape=("N", *s.shape)) for s in specs]
            self._pool_states(layout.states)
        nodes = [*self._before, *self._graph.node, *self._after]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._declare(inputs, outputs)
        self._graph.name = "step" if layout.states else "run"
        return self._model, GraphSpec(file=f"{self._graph.name}.onnx", inputs=tuple(inputs), outputs=tuple(outputs))

    def _make_way(self) -> None:
        """Rename what the original calls as we call what is ours; what clients know by its name cannot be."""
        states = [state.spec() for state in self._layout.states]
        ours = {READ_SLOTS, WRITE_SLOTS} if states else set()
        ours |= {str(name) for state in states for name in (state.pool_input, state.pool_output)}
        known = {tensor.name for tensor in (*self._layout.inputs, *self._layout.outputs)}
        if taken := sorted(ours & known):
            raise ImportRefused(
                f"names: expected inputs and outputs of other names than {', '.join(taken)}, which the step graph has "
                "for its own"
            )
        for name in sorted(ours):
            if name in self._names:
                self._rename(name)

    def _rename(self, name: str) -> str:
        """Give a value of the original another name."""
        self._inner[name] = self._names.fresh(name)
        rename_values(self._graph, {name: self._inner[name]})
        return self._inner[name]

    def _value(self, name: str) -> str:
        return self._inner.get(name, name)

    def _own_input(self, tensor: OwnTensor) -> None:
        if tensor.shared or tensor.axis == 0:
            return
        inner = self._rename(tensor.name)
        if tensor.axis is None:
            self._before.append(self._squeeze(tensor.name, inner))
        else:
            self._before.append(self._move(tensor.name, inner, 0, tensor.axis, len(tensor.shape) + 1))

    def _own_output(self, tensor: OwnTensor) -> None:
        if tensor.axis == 0:
            return
        inner = self._rename(tensor.name)
        if tensor.axis is None:
            self._after.append(self._unsqueeze(inner, tensor.name, 0))
        else:
            self._after.append(self._move(inner, tensor.name, tensor.axis, 0, len(tensor.shape) + 1))

    def _pool_states(self, states: Sequence[StateTensor]) -> None:
        indices = self._names.fresh("indices")
        self._after.append(self._unsqueeze(WRITE_SLOTS, indices, 1))
        for state in states:
            current, following = self._value(state.input), self._value(state.output)
            gathered = self._gather(state, current)
            late = depends(self._graph, following, current)
            self._scatter(state, following, indices if late else self._wait(state, gathered, indices))

    def _gather(self, state: StateTensor, current: str) -> str:
        """Read rows of the pool; give (B, *shape)."""
        rows = current if state.axis == 0 else self._names.fresh(f"{state.name}_rows")
        self._before.append(self._node("Gather", [f"{state.name}_pool", READ_SLOTS], rows, axis=0))
        if state.axis is None:
            self._before.append(self._squeeze(rows, current))
        elif state.axis:
            self._before.append(self._move(rows, current, 0, state.axis, len(state.shape) + 1))
        return rows

    def _scatter(self, state: StateTensor, following: str, indices: str) -> None:
        """Write rows of the pool."""
        rows = following
        if state.axis is None:
            rows = self._names.fresh(f"{state.name}_next_rows")
            self._after.append(self._unsqueeze(following, rows, 0))
        elif state.axis:
            rows = self._names.fresh(f"{state.name}_next_rows")
            self._after.append(self._move(following, rows, state.axis, 0, len(state.shape) + 1))
        pool = f"{state.name}_pool"
        self._after.append(self._node("ScatterND", [pool, indices, rows], f"{pool}_out"))

    def _wait(self, state: StateTensor, gathered: str, indices: str) -> str:
        """Make indices (B, 1) that are there only after the rows have been gathered.

        What is added to them is one if a tensor has fewer than no elements. The optimizer of ONNX Runtime knows shapes
        well enough to do without a tensor whose shape alone is asked for, but not that.
        """
        if state.dtype == "bfloat16":  # the one type that the runtime counts no elements of
            numbers = self._names.fresh("numbers")
            self._after.append(self._node("Cast", [gathered], numbers, to=TensorProto.FLOAT))
            gathered = numbers
        size, negative, nothing, late = (self._names.fresh(name) for name in ("size", "negative", "nothing", "indices"))
        self._after += [
            self._node("Size", [gathered], size),
            self._node("Less", [size, self._ints(0)], negative),
            self._node("Cast", [negative], nothing, to=TensorProto.INT64),
            self._node("Add", [indices, nothing], late),
        ]
        return late

    def _move(self, source: str, target: str, old: int, new: int, rank: int) -> onnx.NodeProto:
        """Put axis `old` at `new`."""
        order = [axis for axis in range(rank) if axis != old]
        order.insert(new, old)
        return self._node("Transpose", [source], target, perm=order)

    def _squeeze(self, source: str, target: str) -> onnx.NodeProto:
        if self._opset < _AXES_INPUT_OPSET:
            return self._node("Squeeze", [source], target, axes=[0])
        return self._node("Squeeze", [source, self._ints(0)], target)

    def _unsqueeze(self, source: str, target: str, axis: int) -> onnx.NodeProto:
        if self._opset < _AXES_INPUT_OPSET:
            return self._node("Unsqueeze", [source], target, axes=[axis])
        return self._node("Unsqueeze", [source, self._ints(axis)], target)

    def _ints(self, *values: int) -> str:
        """A constant vector: a node, since files of old had to list initializers among the inputs."""
        name = self._names.fresh("constant")
        tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        self._before.insert(0, self._node("Constant", [], name, value=tensor))
        return name

    def _node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op_type, inputs, [output], name=self._names.fresh(op_type), **attributes)

    def _declare(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        """Say what the graph takes and gives now; inputs with values of their own stay declared."""
        own = {tensor.name for tensor in inputs} | {state.input for state in self._layout.states}
        weights = [info for info in self._graph.input if self._value(info.name) not in own and info.name not in own]
        for info in weights:
            info.name = self._value(info.name)
        weights = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in weights]
        del self._graph.input[:]
        self._graph.input.extend([*[_declaration(tensor) for tensor in inputs], *weights])
        del self._graph.output[:]
        self._graph.output.extend([_declaration(tensor) for tensor in outputs])
        states = {self._value(state.input) for state in self._layout.states}
        for index in reversed(range(len(self._graph.initializer))):
            if self._graph.initializer[index].name in states:  # a default that is a pool's initial state now
                del self._graph.initializer[index]
        # What was declared of values in between may name sizes as they were.
        del self._graph.value_info[:]


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators; those that we add need one where the model itself uses none."""
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            return imported.version
    model.opset_import.append(helper.make_opsetid("", _OPSET))
    return _OPSET


def _with_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """Copy a model; convert it if its operators are older than those that we need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    opset = default_opset(copy)
    if opset >= least:
        return copy
    try:
        return version_converter.convert_version(copy, least)
    except Exception as error:  # the converter's errors are of many types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ImportRefused(
            f"opset: expected {least} or later, which has ScatterND, got {opset}, which cannot be converted: {reason}"
        ) from None


def _declaration(tensor: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, ELEMENT_TYPES[tensor.dtype], list(tensor.shape))
