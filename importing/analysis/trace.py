"""Where the rows of a batch go in a graph, told from its operators: a proof that draws cannot see everything.

A limiter that the loudest row sets, a flag that any row raises, a mean over as many as there are: rows that share
such a graph pass all comparisons until they meet. So every operator is asked where it takes the rows; one that computes
over them, or with their number, joins them. Of what comes of operators that have no rule nothing is known.

Reshapes keep the order of elements: whatever they make of the axes, the product of the sizes before the rows, in C
order, stays.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import inliner

from importing.errors import ImportRefused
from importing.session import RunFailed, Session
from importing.signature import Array

# What a value without rows may depend on: the file alone, the sizes of inputs too, or values that all rows share too.
CONSTANT: Final = 0
SIZED: Final = 1
SHARED: Final = 2


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
        in_size: Whether how much there is of it may depend on the rows too.
    """

    reason: str
    in_size: bool = False


@dataclass(frozen=True)
class Unknown:
    """What may have rows, nobody knows where.

    Args:
        reason: Which operator it comes of.
    """

    reason: str = ""


@dataclass(frozen=True, eq=False)
class Counted:
    """What has no rows, but depends on how many there are.

    Args:
        elements: An array of objects: a `Count` where it does, else the value.
    """

    elements: Array


UNKNOWN: Final = Unknown()
Flow = Place | Joined | Unknown | Counted | None  # None: it has no rows, and is the same however many there are


def in_size(flow: Joined | Unknown) -> Joined | Unknown:
    """The same where values say how much there is, too."""
    return Joined(flow.reason, True) if isinstance(flow, Joined) else flow


class Trace:
    """A run of a graph with every value kept, and where each has its rows.

    Args:
        arrays: By value.
        num_rows: Of the run.
        opsets: What the graph imports.
        covered: Branches that were followed, added to; shared by all traces of a model.
        path: Of a body: by what its node is called and the attribute that has it, from the outermost on.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        num_rows: int,
        opsets: Sequence[onnx.OperatorSetIdProto],
        covered: "Coverage",
        path: tuple[str, ...] = (),
    ) -> None:
        self.arrays, self.num_rows, self.opsets, self.covered = arrays, num_rows, opsets, covered
        self.path = path
        self.inner: dict[tuple[str, ...], Trace] = {}  # of bodies, by path
        self.flows: dict[str, Flow] = {}
        self.levels: dict[str, int] = {}
        self.shapes: set[str] = set()  # values that are shapes: how long they are is constant

    @property
    def opset(self) -> int:
        """Of the standard operators."""
        return next((each.version for each in self.opsets if each.domain in ("", "ai.onnx")), 0)

    def flow(self, name: str) -> Flow:
        """Where a value has its rows."""
        return self.flows.get(name)

    def level(self, name: str) -> int:
        """What a value without rows depends on."""
        return self.levels.get(name, CONSTANT)

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


@dataclass(frozen=True)
class Coverage:
    """Which branches were followed, of those that values decide which all rows share.

    Args:
        wanted: By path of the branch, what to say where nobody follows it.
        reached: Those that were followed.
    """

    wanted: dict[tuple[str, ...], str]
    reached: set[tuple[str, ...]]

    def missing(self) -> str | None:
        """What to say of one that was not followed."""
        return next((reason for key, reason in self.wanted.items() if key not in self.reached), None)


def run_and_keep(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    """Run a model, every value between being an output too; None where it does not run like this."""
    try:
        kept = onnx.ModelProto()
        kept.CopyFrom(model)
        declared = {info.name for info in (*kept.graph.input, *kept.graph.output)}
        between = dict.fromkeys(name for node in kept.graph.node for name in node.output if name)
        kept.graph.output.extend(onnx.ValueInfoProto(name=name) for name in between if name not in declared)
        values = Session(kept).run(feeds)
    except (ImportRefused, RunFailed, RuntimeError, ValueError):
        return None
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {**constants, **feeds, **values}


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with functions of its own written out."""
    return inliner.inline_local_functions(model) if model.functions else model
