"""Where the nodes of a graph run, and whether that is where they should.

ONNX Runtime gives a node that the CUDA provider does not take to the CPU, in silence. For the recurrence that is grave:
each run then waits for the state to be copied to the host and back, and no run can be captured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from export.graph.cells import FUNCTIONS, refusals
from export.manifest import GraphKind, GraphSpec, Manifest
from service.runtime.errors import RunnerError
from service.runtime.nodes import Node

# Arithmetic on shapes and indices, which CUDA sessions keep on the CPU on purpose. Anything else there is real work,
# and every step would wait for copies to it and back.
_SMALL_OPS: Final = frozenset(
    {"Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Flatten", "Gather", "Greater"}
    | {"Identity", "Less", "Max", "Min", "Mul", "Not", "Range", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub"}
    | {"Unsqueeze", "Where"}
)
_CELLS: Final = frozenset({*FUNCTIONS, "DynamicQuantizeLSTM"})
_BYTE_PRODUCTS: Final = frozenset({"MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"})
_PRODUCTS: Final = _BYTE_PRODUCTS | {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Einsum", "MatMulNBits"}
_OF_NOTE: Final = _CELLS | _PRODUCTS
_MOST_NAMED: Final = 4  # nodes of a warning


class AssignedNode(Protocol):
    """A node as ONNX Runtime tells of it."""

    @property
    def name(self) -> str:
        """Its own; may be empty."""

    @property
    def op_type(self) -> str:
        """Which operator."""


class Assigned(Protocol):
    """Some nodes that one provider runs."""

    @property
    def ep_name(self) -> str:
        """Of the provider."""

    def get_nodes(self) -> Sequence[AssignedNode]:
        """Which."""


class Placement(NamedTuple):
    """What of a graph a provider runs, but for trifles: each node with its operator and name.

    Args:
        recurrent: Those that carry states on, each with why it is not taken elsewhere.
        other: The others.
    """

    recurrent: tuple[str, ...]
    other: tuple[str, ...]

    def warnings(self, kind: GraphKind) -> Iterator[str]:
        """Tell the operator of nodes that run on the CPU beside a GPU.

        Args:
            kind: Of the graph.
        """
        if self.recurrent:
            yield f"graph {kind}: the recurrence runs on the CPU, and each run waits for it: {_listed(self.recurrent)}"
        if self.other:
            yield f"graph {kind}: {len(self.other)} nodes run on the CPU ({_listed(self.other)})"

    def insist(self, kind: GraphKind) -> None:
        """Take a recurrence on the CPU for an error.

        Args:
            kind: Of the graph.

        Raises:
            RunnerError: It runs there.
        """
        if self.recurrent:
            raise RunnerError(
                f"provider cuda: graph {kind}: expected the recurrence on the GPU, got {_listed(self.recurrent)} on "
                "the CPU; provider auto serves it so"
            )


def place(
    assignment: Iterable[Assigned], nodes: Sequence[Node], spec: GraphSpec, manifest: Manifest, provider: str
) -> Placement:
    """See what of a graph a provider runs.

    An int8 step has no LSTM to look for: its recurrence is MatMulInteger and single functions. What counts are products
    on the way from a state to the state after it, and those in loops.

    Args:
        assignment: What a session tells that has recorded it.
        nodes: Of the graph's file.
        spec: Of the graph.
        manifest: Of the bundle.
        provider: Which one.
    """
    carrying = _carrying(nodes, spec, manifest)
    known = {node.name: node for node in nodes if node.name}
    unnamed = {op_type: [node for node in nodes if node.op_type == op_type and not node.name] for op_type in _OF_NOTE}
    recurrent, other = [], []
    for op_type, name in _working(assignment, provider):
        node = _named(known, name)
        likely = [node] if node is not None else unnamed.get(op_type, [])
        if op_type in _CELLS or (op_type in _PRODUCTS and any(id(one) in carrying for one in likely)):
            recurrent.append(f"{_told(op_type, name)} ({_why(op_type, likely)})")
        else:
            other.append(_told(op_type, name))
    return Placement(tuple(recurrent), tuple(other))


def working_nodes(assignment: Iterable[Assigned], provider: str) -> list[str]:
    """The nodes that a provider runs, but for trifles, each with its operator.

    Args:
        assignment: What a session tells that has recorded it.
        provider: Which one.
    """
    return [_told(op_type, name) for op_type, name in _working(assignment, provider)]


def _working(assignment: Iterable[Assigned], provider: str) -> Iterator[tuple[str, str]]:
    for part in assignment:
        if part.ep_name == provider:
            yield from ((node.op_type, node.name) for node in part.get_nodes() if node.op_type not in _SMALL_OPS)


def _told(op_type: str, name: str) -> str:
    return f"{op_type} {name}".rstrip()


def _named(known: Mapping[str, Node], name: str) -> Node | None:
    """The node of the file that one of ONNX Runtime's was: one that it has fused has a name that begins so."""
    while name not in known:
        name, slash, _ = name.rpartition("/")
        if not slash:
            return None
    return known[name]


def _carrying(nodes: Sequence[Node], spec: GraphSpec, manifest: Manifest) -> set[int]:
    """By id, the products between a state and the state after it."""
    given, returned = {tensor.name for tensor in spec.inputs}, {tensor.name for tensor in spec.outputs}
    found = {id(node) for node in nodes if node.looped and node.op_type in _PRODUCTS}
    for state in manifest.states:
        for before, after in (
            (state.pool_input, state.pool_output),
            (state.sequence_input, state.sequence_output),
        ):
            if before in given and after in returned:
                ways = _reached(nodes, before, forward=True) & _reached(nodes, after, forward=False)
                found |= {id(node) for node in nodes if node.op_type in _PRODUCTS and id(node) in ways}
    return found


def _reached(nodes: Sequence[Node], start: str, *, forward: bool) -> set[int]:
    """By id, the nodes that a value goes into at last, or that it comes from."""
    by_value: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs if forward else node.outputs:
            by_value.setdefault(name, []).append(node)
    waiting, seen = [start], {start}
    reached: set[int] = set()
    while waiting:
        for node in by_value.get(waiting.pop(), ()):
            reached.add(id(node))
            new = {name for name in (node.outputs if forward else node.inputs) if name} - seen
            seen |= new
            waiting.extend(new)
    return reached


def _why(op_type: str, nodes: Sequence[Node]) -> str:
    """Why CUDA does not take an operator that is set as these are; the first reason of the first that has one."""
    if op_type == "DynamicQuantizeLSTM":
        return "CUDA has none"
    if op_type in _BYTE_PRODUCTS:
        return "CUDA multiplies signed bytes with signed bytes alone"
    reasons = [reason for node in nodes for reason in refusals(node.op_type, node.settings, node.inputs)]
    return reasons[0] if reasons else "ONNX Runtime does not tell why"


def _listed(nodes: Sequence[str]) -> str:
    more = len(nodes) - _MOST_NAMED
    return ", ".join(nodes[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
