"""Where the nodes of a graph run, and whether that is where they should."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

# Arithmetic on shapes and indices, which CUDA sessions keep on the CPU on purpose. Anything else there is real work,
# and every step would wait for copies to it and back.
_SMALL_OPS: Final = frozenset(
    {"Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Flatten", "Gather", "Greater"}
    | {"Identity", "Less", "Max", "Min", "Mul", "Not", "Range", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub"}
    | {"Unsqueeze", "Where"}
)


class Node(Protocol):
    """A node as ONNX Runtime tells of it."""

    name: str
    op_type: str


class Assigned(Protocol):
    """Some nodes that one provider runs."""

    ep_name: str

    def get_nodes(self) -> Sequence[Node]:
        """Which."""


def working_nodes(assignment: Iterable[Assigned], provider: str) -> list[str]:
    """The nodes that a provider runs, but for trifles, each with its operator.

    An int8 step has no LSTM to look for: its recurrence is MatMulInteger and single functions.

    Args:
        assignment: What a session tells that has recorded it.
        provider: Which one.
    """
    return [
        f"{node.op_type} {node.name}"
        for part in assignment
        if part.ep_name == provider
        for node in part.get_nodes()
        if node.op_type not in _SMALL_OPS
    ]
