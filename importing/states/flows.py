"""Which recurrent operators an input starts, and which outputs give where they ended."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import onnx

from export.graph.walk import all_nodes, bodies

# Operators that rearrange values without computing with them, and which of their inputs those are.
_REARRANGES: Final = frozenset(
    {
        "Cast",
        "Concat",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
# Operator -> (index of the input that starts it, index of the output that ends it) by part of its state.
_RECURRENT: Final[Mapping[str, Mapping[str, tuple[int, int]]]] = {
    "RNN": {"hidden": (5, 1)},
    "GRU": {"hidden": (5, 1)},
    "LSTM": {"hidden": (5, 1), "cell": (6, 2)},
    "DynamicQuantizeLSTM": {"hidden": (5, 1), "cell": (6, 2)},
}


class Cell(NamedTuple):
    """A part of the state of one recurrent operator.

    Args:
        node: The first of its outputs, which tells it from others.
        part: hidden or cell.
    """

    node: str
    part: str


class Flows:
    """What a graph does with the states of recurrent operators.

    Args:
        graph: Whose.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        forward: dict[str, set[str]] = {}
        starts: dict[str, set[Cell]] = {}
        ends: dict[str, set[Cell]] = {}
        for node in all_nodes(graph):
            for source, target in _edges(node):
                forward.setdefault(source, set()).add(target)
            for part, (start, end) in _RECURRENT.get(node.op_type, {}).items():
                cell = Cell(next(filter(None, node.output), ""), part)
                if len(node.input) > start and node.input[start]:
                    starts.setdefault(node.input[start], set()).add(cell)
                if len(node.output) > end and node.output[end]:
                    ends.setdefault(node.output[end], set()).add(cell)
        backward: dict[str, set[str]] = {}
        for source, targets in forward.items():
            for target in targets:
                backward.setdefault(target, set()).add(source)
        self._forward, self._backward, self._starts, self._ends = forward, backward, starts, ends

    def started(self, value: str) -> frozenset[Cell]:
        """Cells that start from the value."""
        return _collect(value, self._forward, self._starts)

    def ended(self, value: str) -> frozenset[Cell]:
        """Cells whose end the value gives."""
        return _collect(value, self._backward, self._ends)


def _collect(value: str, edges: Mapping[str, Iterable[str]], cells: Mapping[str, set[Cell]]) -> frozenset[Cell]:
    found: set[Cell] = set()
    waiting, seen = [value], {value}
    while waiting:
        name = waiting.pop()
        found |= cells.get(name, set())
        new = set(edges.get(name, ())) - seen
        seen |= new
        waiting.extend(new)
    return frozenset(found)


def _edges(node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    """Values that go through a node as they are, and what they are called afterwards."""
    if node.op_type in _REARRANGES:
        sources = node.input if node.op_type == "Concat" else node.input[:1]
        yield from ((source, target) for source in sources for target in node.output)
    if node.op_type == "If":
        for body in bodies(node):
            yield from zip((info.name for info in body.output), node.output, strict=False)
