"""Follow rows from node to node: ask each operator's rule where it takes them."""

from collections.abc import Iterable
from typing import Final

import numpy as np
import onnx

from export.graph.walk import bodies, reads
from importing.analysis.bodies import follow_bodies
from importing.analysis.counting import compute, has_counts, settled
from importing.analysis.counts import ROWS, NotCounted
from importing.analysis.look import Flows, Look, NotFollowed
from importing.analysis.operators import REDUCERS, RULES, SIZES, WHOLE, keeps_size
from importing.analysis.trace import CONSTANT, SIZED, UNKNOWN, Counted, Flow, Joined, Place, Trace, Unknown, in_size
from importing.signature import Array

_MEASURES: Final = frozenset({"Shape", "Size"})  # of what they read no values, but its sizes
_STANDARD: Final = frozenset({"", "ai.onnx"})
_DOMAINS: Final = _STANDARD | {"com.microsoft"}


def follow(trace: Trace, nodes: Iterable[onnx.NodeProto]) -> None:
    """Say of every value that nodes give where it has its rows.

    Args:
        trace: With the flows of what nodes read; those of what they give are added.
        nodes: In an order in which they run.
    """
    for node in nodes:
        look = Look(node, trace)
        flows = _each(_flows(look), len(node.output))
        level = max((trace.level(name) for name in reads(node)), default=CONSTANT)
        if node.op_type in _MEASURES:
            level = CONSTANT if node.input[0] in trace.shapes else max(level, SIZED)
            trace.shapes.update(node.output)
        for name, flow in zip(node.output, flows, strict=True):
            if name:
                trace.flows[name] = _checked(look, name, flow)
                trace.levels[name] = level


def _each(flows: Flows, count: int) -> list[Flow]:
    """Of each output."""
    if flows is None or isinstance(flows, Place | Joined | Unknown | Counted):
        return [flows] * count
    return list(flows)


def _flows(look: Look) -> Flows:
    """Where the outputs of a node have their rows."""
    node, trace = look.node, look.trace
    if any(True for _ in bodies(node)):
        return follow_bodies(look, follow)
    flows = [trace.flow(name) for name in node.input if name]
    if node.op_type in _MEASURES and not isinstance(flows[0], Unknown):
        return _measure(look, flows[0])
    if any(isinstance(flow, Joined) for flow in flows):
        return _joined(look)
    known = node.domain in _DOMAINS and all(name in trace.arrays for name in (*node.input, *node.output) if name)
    for flow in flows:
        if isinstance(flow, Unknown):
            whole = node.op_type in WHOLE or _reduces_all(look)
            return look.joined("computes over all of what has rows somewhere") if whole else flow
    if all(flow is None for flow in flows):
        return None
    if not known:
        return UNKNOWN
    if any(isinstance(flow, Counted) for flow in flows):
        return _count(look)
    return _ruled(look)


def _joined(look: Look) -> Flow:
    """What reads something that rows have joined; how much it gives of it may be what that says."""
    found = [
        (index, flow) for index, name in enumerate(look.node.input) if isinstance(flow := look.trace.flow(name), Joined)
    ]
    sized = any(flow.in_size for _, flow in found) or not keeps_size(look.node, [index for index, _ in found])
    return in_size(found[0][1]) if sized else found[0][1]


def _ruled(look: Look) -> Flows:
    rule = RULES.get(look.node.op_type)
    try:
        return UNKNOWN if rule is None else rule(look)
    except NotFollowed:
        return UNKNOWN


def _count(look: Look) -> Flows:
    """Compute with the number of rows, or make something of that size."""
    node = look.node
    if node.op_type in SIZES and (not look.is_counted(0) or node.op_type in ("ConstantOfShape", "Range")):
        return _ruled(look)
    what = look.joined("computes with the number of rows")
    if look.rows or node.domain not in _STANDARD:
        return what
    try:
        inputs = [
            look.counts(i) if look.is_counted(i) else look.trace.arrays[name] if name else np.empty(0)
            for i, name in enumerate(node.input)
        ]
        computed = compute(node, inputs, look.opset)
        outputs = [
            settled(array, look.trace.arrays[name], look.trace.num_rows)
            for array, name in zip(computed, node.output, strict=True)
        ]
    except (NotCounted, NotFollowed, ArithmeticError, TypeError):
        return what
    return [_counted(array) for array in outputs]


def _measure(look: Look, flow: Flow) -> Flows:
    """Sizes, which have the number of rows where the rows are."""
    if flow is None or isinstance(flow, Counted):
        return None
    if look.node.input[0] not in look.trace.arrays:
        return UNKNOWN
    if isinstance(flow, Joined) and flow.in_size:
        return flow
    rows, shape = look.trace.num_rows, look.shape(0)
    sizes = np.array(shape, dtype=object)
    for axis, size in enumerate(shape):
        if axis == flow.axis if isinstance(flow, Place) else not size % rows:
            sizes[axis] = ROWS * (size // rows)
    if look.node.op_type == "Size":
        product = np.empty((), dtype=object)
        product[()] = np.multiply.reduce(sizes, initial=1)
        return _counted(product)
    first, last = look.attribute("start", 0), look.attribute("end", len(shape))
    return _counted(sizes[first:last])


def _counted(elements: Array) -> Flow:
    return Counted(elements) if has_counts(elements) else None


def _checked(look: Look, name: str, flow: Flow) -> Flow:
    """What cannot be so is not known; what is not known is because of this node."""
    if isinstance(flow, Place) and not _fits(look.trace, name, flow):
        flow = UNKNOWN
    if flow is UNKNOWN:
        domain = f"{look.node.domain}." if look.node.domain not in _STANDARD else ""
        return Unknown(f"what {domain}{look.node.op_type} ({look.called}) does with them is not known")
    return flow


def _reduces_all(look: Look) -> bool:
    """Whether a reduction leaves nothing of any axis."""
    if look.node.op_type not in REDUCERS or look.attribute("noop_with_empty_axes", 0):
        return False
    return not look.attribute("axes") and not look.given(1)


def _fits(trace: Trace, name: str, place: Place) -> bool:
    """Whether a value can have its rows there; an output that is left over may be shaped otherwise."""
    if name not in trace.arrays:
        return False
    shape = trace.shape(name)
    return 0 <= place.axis < len(shape) and shape[place.axis] == place.outer * trace.num_rows * place.inner
