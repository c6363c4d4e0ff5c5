"""Whether rows of a batch meet in a graph, as its operators say."""

from collections.abc import Callable
from typing import Final

from importing.analysis.operators import REDUCERS, RULES, WHOLE, Look
from importing.analysis.trace import UNKNOWN, Flow, Joined, Place, Trace, inherited, run_and_keep
from importing.analysis.walk import Conditions, Original, Step, Walk, stack

_ROWS: Final = 7  # a prime that is no size of layers, which reshapes would take for the rows
_NO_VALUES: Final = frozenset({"Shape", "Size"})  # of what they read, whose sizes are those of the batch
_DOMAINS: Final = frozenset({"", "ai.onnx", "com.microsoft"})


def rows_meet(original: Original, conditions: Conditions, draw: Callable[[], Step]) -> str | None:
    """Find an operator that joins rows in what the model gives.

    Args:
        original: The model.
        conditions: How it is run.
        draw: Gives inputs of a step of one row.

    Returns:
        Which one, and how; None where nothing that is known of the graph speaks against company.
    """
    feeds = Walk(original, conditions, _ROWS).feeds(stack([draw() for _ in range(_ROWS)]))
    kept = run_and_keep(original.model, feeds)
    if kept is None:
        return None
    model, arrays = kept
    trace = Trace(arrays, _ROWS)
    for name, axis in conditions.guess.axes.items():
        if axis is not None:
            trace.flows[name] = Place(axis)
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    for node in model.graph.node:
        _follow(Look(node, trace, opset))
    flows = (trace.flow(value.name) for value in original.signature.outputs)
    return next((flow.reason for flow in flows if isinstance(flow, Joined)), None)


def _follow(look: Look) -> None:
    """Say where the outputs of a node have their rows."""
    node, trace = look.node, look.trace
    flow = inherited(trace, node)
    if flow is None or (node.op_type in _NO_VALUES and not (isinstance(flow, Joined) and flow.in_size)):
        return
    if not isinstance(flow, Place | Joined) and (node.op_type in WHOLE or _reduces_all(look)):
        flow = look.joined("computes over all of what has rows somewhere")
    flows: list[Flow] = [flow] * len(node.output)
    if isinstance(flow, Place):
        rule = RULES.get(node.op_type) if node.domain in _DOMAINS else None
        known = all(name in trace.arrays for name in (*node.input, *node.output) if name)
        found = rule(look) if rule is not None and known else UNKNOWN
        flows = list(found) if isinstance(found, (list, tuple)) else [found] * len(node.output)  # type: ignore[list-item]
    for name, each in zip(node.output, flows, strict=True):
        if name:
            trace.flows[name] = each if not isinstance(each, Place) or _fits(trace, name, each) else UNKNOWN


def _reduces_all(look: Look) -> bool:
    """Whether a reduction leaves nothing of any axis."""
    if look.node.op_type not in REDUCERS or look.attribute("noop_with_empty_axes", 0):
        return False
    given = look.attribute("axes")
    return not given and not (len(look.node.input) > 1 and look.node.input[1])


def _fits(trace: Trace, name: str, place: Place) -> bool:
    """Whether a value can have its rows there; an output that is left over may be shaped otherwise."""
    shape = trace.shape(name)
    return 0 <= place.axis < len(shape) and shape[place.axis] == place.outer * trace.num_rows * place.inner
