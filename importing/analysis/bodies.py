"""Follow rows into the bodies of control flow: both branches of an `If`, what a `Loop` or a `Scan` does each time.

A body is run once as a model of its own, on what the run of the graph around it had, so that its values are there to be
seen. What a loop hands on to its next turn must have its rows in the same place every time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.graph.walk import reads
from importing.analysis.look import Flows, Look, moved
from importing.analysis.trace import (
    CONSTANT,
    SHARED,
    UNKNOWN,
    Counted,
    Flow,
    Joined,
    Place,
    Trace,
    Unknown,
    in_size,
    run_and_keep,
)
from importing.signature import Array

Follow = Callable[[Trace, Iterable[onnx.NodeProto]], None]
_IR_VERSION: Final = 8
_SCAN: Final = 9  # before, it had an axis of its own for the rows


def follow_bodies(look: Look, follow: Follow) -> Flows:
    """Where the outputs of a node with bodies have their rows."""
    kind = look.node.op_type
    if look.node.domain not in ("", "ai.onnx") or kind not in ("If", "Loop", "Scan"):
        return _heard(look) or UNKNOWN
    if kind == "If":
        return _If(look, follow).flows()
    return _loop(look, follow) if kind == "Loop" else _scan(look, follow)


def _heard(look: Look) -> Flow:
    """What is to be said where nothing is read of a body; None: it reads nothing that has to do with rows."""
    flows = [look.trace.flow(name) for name in reads(look.node)]
    found = [flow for kind in (Joined, Unknown) for flow in flows if isinstance(flow, kind)]
    return in_size(found[0]) if found else UNKNOWN if any(flow is not None for flow in flows) else None


class _If:
    """One `If`.

    Args:
        look: At its node.
        follow: Goes on in a body.
    """

    def __init__(self, look: Look, follow: Follow) -> None:
        self._look, self._follow = look, follow

    def flows(self) -> Flows:
        """Those of the branch that the run took; the other is followed where it runs on the same values."""
        look, trace = self._look, self._look.trace
        condition = trace.flow(look.node.input[0])
        if isinstance(condition, Joined | Unknown):
            return in_size(condition)  # a branch may give more than the other
        if condition is not None or look.node.input[0] not in trace.arrays:
            return look.joined("decides by rows")
        level = trace.level(look.node.input[0])
        taken, other = ("then_branch", "else_branch")[:: 1 if trace.arrays[look.node.input[0]].all() else -1]
        mine = self._branch(taken)
        if mine is None:
            return _heard(look) or (UNKNOWN if level != CONSTANT else None)
        if level == CONSTANT:
            return mine
        self._cover(taken, level)
        others = self._branch(other)
        if others is None:
            self._want(other, level)
            return mine
        if _alike(mine, others):
            self._cover(other, level)
        else:
            self._want(other, level)
        return [_merged(a, b) if isinstance(b, Joined) else a for a, b in zip(mine, others, strict=True)]

    def _branch(self, name: str) -> list[Flow] | None:
        body = _Body(self._look, name, {}, self._follow)
        return body.flows({}, {}) if body.runs else None

    def _cover(self, branch: str, level: int) -> None:
        if level >= SHARED:
            self._look.trace.covered.reached.add((*self._look.trace.path, self._look.called, branch))

    def _want(self, branch: str, level: int) -> None:
        if level >= SHARED:
            reason = f"If ({self._look.called}): nothing that was tried takes its {branch.replace('_', ' ')}"
            self._look.trace.covered.wanted[*self._look.trace.path, self._look.called, branch] = reason


def _alike(some: Sequence[Flow], others: Sequence[Flow]) -> bool:
    return all(a == b and not isinstance(a, Counted) for a, b in zip(some, others, strict=True))


def _loop(look: Look, follow: Follow) -> Flows:
    """A `Loop`: its turns are counted, and it may end itself."""
    node, trace = look.node, look.trace
    graph: onnx.GraphProto = look.attribute("body")
    for index in (0, 1):
        if look.given(index) and (flow := trace.flow(node.input[index])) is not None:
            return (
                in_size(flow) if isinstance(flow, Joined | Unknown) else look.joined("runs as often as there are rows")
            )
    carried = list(node.input[2:])
    if len(graph.input) != len(carried) + 2 or any(name not in trace.arrays for name in carried):
        return UNKNOWN
    turn, going, *names = [value.name for value in graph.input]
    given = {
        turn: np.array(0),
        going: np.array(True),
        **{a: trace.arrays[b] for a, b in zip(names, carried, strict=True)},
    }
    body = _Body(look, "body", given, follow)
    if not body.runs:
        return _heard(look) or UNKNOWN
    levels = dict.fromkeys(given, SHARED)
    flows = _settle(body, names, [trace.flow(name) for name in carried], {}, levels)
    if flows[0] is not None:
        return in_size(flows[0]) if isinstance(flows[0], Joined | Unknown) else look.joined("ends as the rows say")
    kept = len(carried) + 1
    if not body.keeps_shapes(names, range(1, kept)):
        return UNKNOWN
    return [*flows[1:kept], *[_stacked(flow, 0) for flow in flows[kept:]]]


def _scan(look: Look, follow: Follow) -> Flows:
    """A `Scan`: a turn for each element along an axis, mostly the time."""
    node, trace = look.node, look.trace
    graph: onnx.GraphProto = look.attribute("body")
    scanned = int(look.attribute("num_scan_inputs", 0))
    kept = len(node.input) - scanned
    if look.opset < _SCAN or any(name not in trace.arrays for name in node.input):
        return UNKNOWN
    axes = list(look.attribute("scan_input_axes", [0] * scanned))
    given, flows = {}, []
    for index, (name, value) in enumerate(zip(node.input, graph.input, strict=True)):
        array, flow = trace.arrays[name], trace.flow(name)
        if index >= kept:
            axis = axes[index - kept] % array.ndim
            if not array.shape[axis]:
                return UNKNOWN
            array = np.take(array, 0, axis)
            if isinstance(flow, Place):
                if flow.axis == axis:
                    return look.joined("takes rows for steps in time")
                flow = moved(flow, flow.axis - (axis < flow.axis))
            elif isinstance(flow, Counted):
                return look.joined("computes with the number of rows")
        given[value.name] = array
        flows.append(flow)
    body = _Body(look, "body", given, follow)
    names = list(given)
    if not body.runs or not body.keeps_shapes(names[:kept], range(kept)):
        return _heard(look) or UNKNOWN
    fixed = dict(zip(names[kept:], flows[kept:], strict=True))
    found = _settle(body, names[:kept], flows[:kept], fixed, dict.fromkeys(names, SHARED), first=0)
    out_axes = look.attribute("scan_output_axes", [0] * (len(found) - kept))
    return [*found[:kept], *[_stacked(flow, axis) for flow, axis in zip(found[kept:], out_axes, strict=True)]]


def _stacked(flow: Flow, axis: int) -> Flow:
    """What each turn gives, one after the other along a new axis."""
    if isinstance(flow, Counted) or axis < 0:
        return UNKNOWN
    return moved(flow, flow.axis + (axis <= flow.axis)) if isinstance(flow, Place) else flow


def _settle(
    body: "_Body",
    names: Sequence[str],
    flows: Sequence[Flow],
    fixed: Mapping[str, Flow],
    levels: Mapping[str, int],
    first: int = 1,
) -> list[Flow]:
    """Follow a body until what it hands on is as it was; the first of its outputs to be handed on is told.

    Returns:
        Of its outputs; those that are handed on may be as they were before, since there may be no turn at all.
    """
    known = list(flows)
    while True:
        found = body.flows({**fixed, **dict(zip(names, known, strict=True))}, levels)
        after = [_merged(a, b) for a, b in zip(known, found[first:], strict=False)]
        if after == known:
            return [*found[:first], *known, *found[first + len(known) :]]
        known = after


def _merged(before: Flow, after: Flow) -> Flow:
    """What holds of both; each time there is less to know."""
    joined = [flow for flow in (before, after) if isinstance(flow, Joined)]
    if joined:
        return in_size(joined[0]) if any(flow.in_size for flow in joined) else joined[0]
    if before == after or isinstance(before, Unknown):
        return before
    return after if isinstance(after, Unknown) else Unknown("a loop hands on other rows than it began with")


class _Body:
    """One turn of a body.

    Args:
        look: At its node.
        name: Of the attribute that has it.
        given: By its input, a value.
        follow: Goes on in it.
    """

    def __init__(self, look: Look, name: str, given: Mapping[str, Array], follow: Follow) -> None:
        graph: onnx.GraphProto = look.attribute(name)
        self._outer, self._graph, self._given, self._follow = look.trace, graph, given, follow
        self._path = (*look.trace.path, look.called, name)
        self._captured = sorted(_captured(graph))
        arrays = {name: look.trace.arrays[name] for name in self._captured if name in look.trace.arrays}
        constants = {name for name in arrays if look.trace.flow(name) is None and not look.trace.level(name)}
        inputs = {**given, **{name: array for name, array in arrays.items() if name not in constants}}
        model = _model(look.trace, graph, inputs, {name: arrays[name] for name in constants})
        self._arrays = run_and_keep(model, inputs)

    @property
    def runs(self) -> bool:
        """Whether it runs on these values."""
        return self._arrays is not None

    def keeps_shapes(self, names: Sequence[str], outputs: Iterable[int]) -> bool:
        """Whether what is handed on has the shape that it came with."""
        arrays = self._arrays or {}
        return all(
            (after := self._graph.output[index].name) in arrays and arrays[name].shape == arrays[after].shape
            for name, index in zip(names, outputs, strict=True)
        )

    def flows(self, given: Mapping[str, Flow], levels: Mapping[str, int]) -> list[Flow]:
        """Of its outputs, with these of its inputs."""
        assert self._arrays is not None
        trace = Trace(self._arrays, self._outer.num_rows, self._outer.opsets, self._outer.covered, self._path)
        self._outer.inner[self._path] = trace
        for name in self._captured:
            trace.flows[name], trace.levels[name] = self._outer.flow(name), self._outer.level(name)
        trace.shapes = self._outer.shapes & set(self._captured)
        trace.flows.update(given)
        trace.levels.update(levels)
        self._follow(trace, self._graph.node)
        return [trace.flow(value.name) for value in self._graph.output]


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Names that a body takes from around it."""
    bare = onnx.NodeProto(op_type="If")
    attribute = bare.attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
    attribute.g.CopyFrom(graph)
    return reads(bare)


def _model(
    trace: Trace, graph: onnx.GraphProto, inputs: Mapping[str, Array], constants: Mapping[str, Array]
) -> onnx.ModelProto:
    """A body as a model of its own; what is constant around it is so in it, since some operators take nothing else."""
    alone = helper.make_graph(
        graph.node,
        graph.name or "body",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
            for name, array in inputs.items()
        ],
        [onnx.ValueInfoProto(name=value.name) for value in graph.output],
        [*graph.initializer, *[numpy_helper.from_array(array, name) for name, array in constants.items()]],
    )
    alone.sparse_initializer.extend(graph.sparse_initializer)
    return helper.make_model(alone, opset_imports=trace.opsets, ir_version=_IR_VERSION)
