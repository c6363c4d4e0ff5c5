"""A node as the rules of operators see it: where its inputs have rows, and what is known of their values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
from onnx import helper

from importing.analysis.counts import Count
from importing.analysis.trace import SHARED, Counted, Flow, Joined, Place, Trace
from importing.signature import Array

# Of what these give there is as much as of what they read, or one for each of some axes, whatever they join.
_ALIKE: Final = frozenset({"Add", "CumSum", "Div", "Mul", "Sub", "ArgMax", "ArgMin", "LayerNormalization"}) | frozenset(
    {"Hardmax", "LogSoftmax", "LpNormalization", "Softmax", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}
)
Flows = Flow | Sequence[Flow]  # of all outputs alike, or of each


class NotFollowed(Exception):
    """What a rule would have to know is not known."""


@dataclass(frozen=True)
class Look:
    """A node, and what is known of its values.

    Args:
        node: The node.
        trace: Of the graph.
    """

    node: onnx.NodeProto
    trace: Trace

    @property
    def opset(self) -> int:
        """Of the standard operators."""
        return self.trace.opset

    @property
    def rows(self) -> dict[int, Place]:
        """By index, the inputs that have rows."""
        flows = {index: self.trace.flow(name) for index, name in enumerate(self.node.input) if name}
        return {index: flow for index, flow in flows.items() if isinstance(flow, Place)}

    def only(self, index: int = 0) -> Place:
        """Where this input, and no other, has rows."""
        rows = self.rows
        if list(rows) != [index]:
            raise NotFollowed
        return rows[index]

    def given(self, index: int) -> bool:
        """Whether there is such an input."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def shape(self, index: int) -> tuple[int, ...]:
        """Of an input."""
        return self.trace.shape(self.node.input[index])

    def out_shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return self.trace.shape(self.node.output[0])

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default)

    def counts(self, index: int) -> Array:
        """Values of an input that has no rows: objects, which are a `Count` where they depend on the number of rows."""
        name = self.node.input[index]
        flow = self.trace.flow(name)
        if isinstance(flow, Counted):
            return flow.elements
        if flow is not None or self.trace.level(name) >= SHARED:
            raise NotFollowed
        return self.trace.arrays[name].astype(object)

    def is_counted(self, index: int) -> bool:
        """Whether values of an input depend on the number of rows."""
        return self.given(index) and isinstance(self.trace.flow(self.node.input[index]), Counted)

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Whole numbers that are an attribute or, later, an input, the same for any number of rows."""
        if (given := self.attribute(name)) is not None:
            return [int(given)] if isinstance(given, int) else list(given)
        if not self.given(index):
            return None
        found = list(self.counts(index).ravel())
        if any(isinstance(number, Count) for number in found):
            raise NotFollowed
        return [int(number) for number in found]

    def axis(self, default: int, rank: int) -> int:
        """The attribute `axis`, counted from the front."""
        return int(self.attribute("axis", default)) % max(rank, 1)

    def joined(self, what: str) -> Joined:
        """Rows meet here."""
        return Joined(f"{self.node.op_type} ({self.called}) {what}", self.node.op_type not in _ALIKE)

    @property
    def called(self) -> str:
        """What people know the node by."""
        return next((name for name in self.node.output if name), self.node.name)


def moved(place: Place, axis: int) -> Place:
    """The same rows on another axis."""
    return Place(axis, place.outer, place.inner)
