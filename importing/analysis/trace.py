"""Where the rows of a batch go in a graph, told from its operators: a proof that draws cannot see everything.

A limiter that the loudest row sets, a flag that any row raises: rows that share such a graph pass all comparisons
until they meet. So every operator that is known is asked where it takes the rows; one that computes over them joins
them. What comes of operators that are not known, of control flow for one, is left to the comparisons.

Reshapes keep the order of elements: whatever they make of the axes, the product of the sizes before the rows, in C
order, stays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import inliner

from export.graph.walk import reads
from importing.errors import ImportRefused
from importing.session import RunFailed, Session
from importing.signature import Array


@dataclass(frozen=True)
class Place:
    """Where a value has its rows: on an axis of size `outer * rows * inner`.

    Args:
        axis: Which.
        outer: Repetitions around the rows, on the same axis.
        inner: Elements of a row, likewise.
    """

    axis: int
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Joined:
    """What has something of several rows in each of its own, or in none.

    Args:
        reason: Which operator does it.
        in_size: Whether how much there is of it depends on the rows too.
    """

    reason: str
    in_size: bool = False


class Unknown:
    """What may have rows, nobody knows where."""


UNKNOWN = Unknown()
Flow = Place | Joined | Unknown | None  # None: it has no rows


class Trace:
    """A run of a graph with every value kept, and where each has its rows.

    Args:
        arrays: By value.
        num_rows: Of the run.
    """

    def __init__(self, arrays: Mapping[str, Array], num_rows: int) -> None:
        self.arrays, self.num_rows = arrays, num_rows
        self.flows: dict[str, Flow] = {}

    def flow(self, name: str) -> Flow:
        """Where a value has its rows."""
        return self.flows.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a value."""
        return self.arrays[name].shape

    def before(self, name: str, place: Place) -> int:
        """Product of the sizes before the rows."""
        return math.prod(self.shape(name)[: place.axis]) * place.outer

    def place(self, name: str, before: int) -> Flow:
        """Where rows are that have so much before them."""
        outside = 1
        for axis, size in enumerate(self.shape(name)):
            outer, rest = divmod(before, outside)
            if not rest and size and size % (outer * self.num_rows) == 0:
                return Place(axis, outer, size // (outer * self.num_rows))
            outside *= size
            if not outside:
                break
        return UNKNOWN


def run_and_keep(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]] | None:
    """Run a model, every value between being an output too.

    Returns:
        The model, functions of its own written out, and its values; None where it does not run like this.
    """
    try:
        whole = inliner.inline_local_functions(model) if model.functions else model
        kept = onnx.ModelProto()
        kept.CopyFrom(whole)
        declared = {info.name for info in (*kept.graph.input, *kept.graph.output)}
        between = dict.fromkeys(name for node in kept.graph.node for name in node.output if name)
        kept.graph.output.extend(onnx.ValueInfoProto(name=name) for name in between if name not in declared)
        values = Session(kept).run(feeds)
    except (ImportRefused, RunFailed, RuntimeError, ValueError):
        return None
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    return whole, {**constants, **feeds, **values}


def inherited(trace: Trace, node: onnx.NodeProto) -> Flow:
    """What a node's outputs have of what it reads, before its own rule is asked."""
    flows = [trace.flow(name) for name in reads(node)]
    for kind in (Joined, Unknown):
        for flow in flows:
            if isinstance(flow, kind):
                return flow
    return next((flow for flow in flows if flow is not None), None)
