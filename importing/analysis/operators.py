"""What operators do with the rows of a batch that their inputs have: leave them, move them or join them.

Each rule is given a node of whose inputs some have rows at a place that is known, and says so of its outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from importing.analysis.trace import UNKNOWN, Flow, Joined, Place, Trace

Flows = Flow | Sequence[Flow]  # of all outputs alike, or of each
_COUNTING: Final = frozenset({"Compress", "NonZero", "Unique"})  # their values are counted by their size
_NEW_SOFTMAX: Final = 13  # before, it computed over its axis and all after it


@dataclass(frozen=True)
class Look:
    """A node, and what is known of its values.

    Args:
        node: The node.
        trace: Of the graph.
        opset: Of the standard operators.
    """

    node: onnx.NodeProto
    trace: Trace
    opset: int

    @property
    def rows(self) -> dict[int, Place]:
        """By index, the inputs that have rows."""
        flows = {index: self.trace.flow(name) for index, name in enumerate(self.node.input) if name}
        return {index: flow for index, flow in flows.items() if isinstance(flow, Place)}

    def shape(self, index: int) -> tuple[int, ...]:
        """Of an input."""
        return self.trace.shape(self.node.input[index])

    def out_shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return self.trace.shape(self.node.output[0])

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default)

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Whole numbers that are an attribute or, later, an input."""
        if (given := self.attribute(name)) is not None:
            return list(given)
        if len(self.node.input) > index and self.node.input[index]:
            return [int(number) for number in self.trace.arrays[self.node.input[index]].ravel()]
        return None

    def axis(self, default: int, rank: int) -> int:
        """The attribute `axis`, counted from the front."""
        return int(self.attribute("axis", default)) % max(rank, 1)

    def joined(self, what: str) -> Joined:
        """Rows meet here."""
        kind = self.node.op_type
        return Joined(f"{kind} ({self.node.output[0] or self.node.name}) {what}", kind in _COUNTING)


def elementwise(look: Look) -> Flow:
    """Axes are aligned from the last, as broadcasting does it."""
    rank = len(look.out_shape())
    shifted = {
        Place(rank - len(look.shape(index)) + place.axis, place.outer, place.inner)
        for index, place in look.rows.items()
    }
    if len({place.axis for place in shifted}) > 1:
        return look.joined("sets rows against each other")
    return shifted.pop() if len(shifted) == 1 else UNKNOWN


def reshape(look: Look) -> Flow:
    """The order of the elements stays."""
    if list(look.rows) != [0]:
        return UNKNOWN
    found = look.trace.place(look.node.output[0], look.trace.before(look.node.input[0], look.rows[0]))
    return look.joined("mixes rows") if found is UNKNOWN else found


def reduce(look: Look) -> Flow:
    """Some axes become one number."""
    if list(look.rows) != [0]:
        return UNKNOWN
    place, rank = look.rows[0], len(look.shape(0))
    given = look.numbers("axes", 1)
    if not given and look.attribute("noop_with_empty_axes", 0):
        return place
    axes = {axis % rank for axis in given} if given else set(range(rank))
    if place.axis in axes:
        return look.joined("computes over the rows")
    return _drop(place, axes, look)


def pick(look: Look) -> Flow:
    """The place of the largest, along one axis."""
    place, axis = look.rows[0], look.axis(0, len(look.shape(0)))
    return look.joined("computes over the rows") if place.axis == axis else _drop(place, {axis}, look)


def along(default: int) -> Callable[[Look], Flow]:
    """Computes along one axis, whose size may change."""

    def rule(look: Look) -> Flow:
        if list(look.rows) != [0]:
            return UNKNOWN
        axis, place = look.axis(default, len(look.shape(0))), look.rows[0]
        return look.joined("computes over the rows") if place.axis == axis else place

    return rule


def softmax(look: Look) -> Flow:
    """Along one axis; of old along all from there on."""
    place, rank = look.rows[0], len(look.shape(0))
    old = look.opset < _NEW_SOFTMAX
    axis = look.axis(1 if old else -1, rank)
    met = place.axis >= axis if old else place.axis == axis
    return look.joined("computes over the rows") if met else place


def cumulate(look: Look) -> Flow:
    """Running sums."""
    if list(look.rows) != [0]:
        return UNKNOWN
    (axis,) = look.numbers("axis", 1) or [0]
    return look.joined("computes over the rows") if axis % len(look.shape(0)) == look.rows[0].axis else look.rows[0]


def normalize(first: int | None) -> Callable[[Look], Sequence[Flow]]:
    """Over all axes from one on; None: that is an attribute."""

    def rule(look: Look) -> Sequence[Flow]:
        if 0 not in look.rows:
            return [UNKNOWN] * len(look.node.output)
        start = look.axis(-1, len(look.shape(0))) if first is None else first
        place = look.rows[0]
        flow = look.joined("computes over the rows") if place.axis >= start else place
        return [flow, *[flow if isinstance(flow, Joined) else UNKNOWN] * (len(look.node.output) - 1)]

    return rule


def transpose(look: Look) -> Flow:
    """Axes change places."""
    place, rank = look.rows[0], len(look.shape(0))
    order = list(look.attribute("perm", range(rank - 1, -1, -1)))
    return Place(order.index(place.axis), place.outer, place.inner)


def gather(look: Look) -> Flow:
    """Looks up."""
    rank, picked = len(look.shape(0)), len(look.shape(1))
    axis, rows = look.axis(0, rank), look.rows
    if len(rows) > 1:
        return look.joined("looks rows up in rows")
    if 1 in rows:
        return Place(axis + rows[1].axis, rows[1].outer, rows[1].inner)
    place = rows[0]
    if place.axis != axis:
        return place if place.axis < axis else Place(place.axis + picked - 1, place.outer, place.inner)
    indices = look.trace.arrays[look.node.input[1]]
    if np.array_equal(indices, np.arange(look.shape(0)[axis])):
        return place
    return look.joined("takes some rows for all") if place == Place(axis) else UNKNOWN


def gather_elements(look: Look) -> Flow:
    """Looks up along an axis, each element on its own."""
    if (place := look.rows.get(0)) is not None and place.axis == look.axis(0, len(look.shape(0))):
        return look.joined("looks rows up in rows")
    return elementwise(look)


def scatter_elements(look: Look) -> Flow:
    """Writes along an axis, each element on its own."""
    if any(place.axis == look.axis(0, len(look.shape(0))) for place in look.rows.values()):
        return look.joined("writes rows into rows")
    return elementwise(look)


def cut(look: Look) -> Flow:
    """A part of it, or steps through it."""
    if list(look.rows) != [0]:
        return UNKNOWN
    place, shape = look.rows[0], look.shape(0)
    axes = look.numbers("axes", 3)
    if axes is None:
        axes = list(range(len(look.numbers("starts", 1) or ())))
    steps = look.numbers("steps", 4) or [1] * len(axes)
    step = dict(zip((axis % len(shape) for axis in axes), steps, strict=True)).get(place.axis, 1)
    if look.out_shape()[place.axis] == shape[place.axis] and step == 1:
        return place
    return look.joined("takes some rows for all") if place == Place(place.axis) else UNKNOWN


def split(look: Look) -> Flow:
    """Parts of it."""
    if list(look.rows) != [0]:
        return UNKNOWN
    place = look.rows[0]
    if place.axis != look.axis(0, len(look.shape(0))) or len(look.node.output) == 1:
        return place
    return look.joined("takes rows apart") if place == Place(place.axis) else UNKNOWN


def concat(look: Look) -> Flow:
    """One after the other."""
    places = set(look.rows.values())
    if len({place.axis for place in places}) > 1:
        return look.joined("sets rows against each other")
    if len(places) > 1 or next(iter(places)).axis == look.axis(0, len(look.out_shape())):
        return UNKNOWN
    return places.pop()


def batch_normalize(look: Look) -> Flow:
    """With statistics that it was given; in training with those of the batch."""
    return look.joined("computes over the rows") if look.attribute("training_mode", 0) else elementwise(look)


def normalize_axes(look: Look) -> Flow:
    """Over some axes, which stay."""
    place = look.rows.get(0)
    if place is None:
        return UNKNOWN
    rank = len(look.shape(0))
    met = place.axis in {axis % rank for axis in look.attribute("axes", [0, 2, 3])}
    return look.joined("computes over the rows") if met else place


def pad(look: Look) -> Flow:
    """Adds at both ends, or takes away."""
    place = look.rows.get(0)
    pads = look.numbers("pads", 1)
    if place is None or len(look.rows) > 1 or pads is None:
        return UNKNOWN
    rank = len(look.shape(0))
    axes = [axis % rank for axis in look.numbers("axes", 3) or range(rank)]
    half = len(pads) // 2
    moved = {axis for i, axis in enumerate(axes) if i < half and (pads[i] or pads[i + half])}
    return look.joined("shifts the rows") if place.axis in moved else place


def same_size(look: Look) -> Flow:
    """Whatever it does along other axes, as long as the rows are as many as before."""
    place = look.rows.get(0)
    if place is None or len(look.rows) > 1 or look.out_shape()[place.axis] != look.shape(0)[place.axis]:
        return UNKNOWN
    return place


def multiply(look: Look) -> Flow:
    """Products of matrices; the last axis of the first meets the last but one of the second."""
    ranks = [len(look.shape(0)), len(look.shape(1))]
    if set(look.rows) - {0, 1} or min(ranks) < 1 or (ranks[0] == 1 and 1 in look.rows):
        return UNKNOWN
    met = (ranks[0] - 1, max(ranks[1] - 2, 0))
    if any(place.axis == met[index] for index, place in look.rows.items()):
        return look.joined("sums over the rows")
    found = {
        Place(max(ranks) - ranks[index] + place.axis, place.outer, place.inner) for index, place in look.rows.items()
    }
    if len({place.axis for place in found}) > 1:
        return look.joined("sets rows against each other")
    return found.pop() if len(found) == 1 and len(look.out_shape()) >= max(ranks) - (ranks[1] == 1) else UNKNOWN


def general_multiply(look: Look) -> Flow:
    """Gemm: a product and what is added to it."""
    found = set()
    for index, place in look.rows.items():
        axis = place.axis
        if index == 2:
            axis += 2 - len(look.shape(2))
        else:
            axis = 1 - axis if look.attribute(("transA", "transB")[index], 0) else axis
            if axis == 1 - index:
                return look.joined("sums over the rows")
        found.add(Place(axis, place.outer, place.inner))
    if len({place.axis for place in found}) > 1:
        return look.joined("sets rows against each other")
    return found.pop() if len(found) == 1 else UNKNOWN


def convolve(look: Look) -> Flow:
    """Sums over channels and neighbours."""
    if list(look.rows) != [0]:
        return UNKNOWN
    place = look.rows[0]
    if place.axis == 1:
        return look.joined("sums over the rows") if look.attribute("group", 1) == 1 else UNKNOWN
    return pool(look)


def pool(look: Look) -> Flow:
    """Computes over neighbours."""
    place = look.rows.get(0)
    if place is None or len(look.rows) > 1:
        return UNKNOWN
    if place.axis < 2:
        return place
    kernel = look.attribute("kernel_shape") or (look.shape(1)[2:] if len(look.node.input) > 1 else ())
    wide = not kernel or kernel[place.axis - 2] > 1
    return look.joined("computes over the rows") if wide else UNKNOWN


def recur(look: Look) -> Sequence[Flow]:
    """LSTM, GRU and RNN, time first: rows are second."""
    expected = {0: 1, 4: 0, 5: 1, 6: 1}
    if look.rows.get(0) == Place(0):
        return [look.joined("takes rows for steps in time")] * len(look.node.output)
    if look.attribute("layout", 0) or any(Place(expected.get(i, -1)) != place for i, place in look.rows.items()):
        return [UNKNOWN] * len(look.node.output)
    return [Place(2), Place(1), Place(1)][: len(look.node.output)]


def one_hot(look: Look) -> Flow:
    """Indices become vectors, along a new axis."""
    if list(look.rows) != [0]:
        return UNKNOWN
    place, axis = look.rows[0], look.axis(-1, len(look.out_shape()))
    return place if place.axis < axis else Place(place.axis + 1, place.outer, place.inner)


def einsum(look: Look) -> Flow:
    """Sums of products, written in letters."""
    equation = bytes(look.attribute("equation", b"")).decode().replace(" ", "")
    given, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        return UNKNOWN
    letters = {given.split(",")[index][place.axis] for index, place in look.rows.items()}
    if any(place.outer > 1 or place.inner > 1 for place in look.rows.values()):
        return UNKNOWN
    if len(letters) > 1:
        return look.joined("sets rows against each other")
    letter = letters.pop()
    return Place(result.index(letter)) if letter in result else look.joined("sums over the rows")


def whole(look: Look) -> Flow:
    """Depends on all of what it is given."""
    return look.joined("looks at all rows at once")


def _drop(place: Place, axes: set[int], look: Look) -> Place:
    gone = 0 if look.attribute("keepdims", 1) else sum(axis < place.axis for axis in axes)
    return Place(place.axis - gone, place.outer, place.inner)


_NAMES: Final[Mapping[Callable[[Look], Flows], str]] = {
    elementwise: """Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot
        BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh DequantizeLinear Div Dropout Elu Equal Erf Exp Expand
        FastGelu Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual
        Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear QuickGelu Reciprocal Relu Round Selu Shrink
        Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor""",
    reshape: "Flatten Reshape Squeeze Unsqueeze",
    reduce: """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare""",
    pick: "ArgMax ArgMin",
    along(-1): "LpNormalization TopK",
    softmax: "Hardmax LogSoftmax Softmax",
    cumulate: "CumSum",
    normalize(None): "LayerNormalization RMSNormalization SimplifiedLayerNormalization",
    normalize(2): "InstanceNormalization",
    normalize(1): "GroupNormalization LRN",
    normalize_axes: "MeanVarianceNormalization",
    batch_normalize: "BatchNormalization",
    pad: "Pad",
    transpose: "Transpose",
    gather: "Gather",
    gather_elements: "GatherElements",
    scatter_elements: "ScatterElements",
    cut: "Slice",
    split: "Split",
    concat: "Concat",
    same_size: "Resize Tile Upsample",
    multiply: "MatMul MatMulInteger",
    general_multiply: "Gemm",
    convolve: "Conv ConvInteger ConvTranspose",
    pool: "AveragePool GlobalAveragePool GlobalMaxPool LpPool MaxPool",
    recur: "GRU LSTM RNN",
    one_hot: "OneHot",
    einsum: "Einsum",
    whole: "Compress DynamicQuantizeLSTM DynamicQuantizeLinear DynamicQuantizeMatMul NonZero Unique",
}
# Whose outputs depend on all of what they read, wherever the rows are in it.
WHOLE: Final = frozenset(_NAMES[whole].split())
REDUCERS: Final = frozenset(_NAMES[reduce].split())
RULES: Final[Mapping[str, Callable[[Look], Flows]]] = {
    name: rule for rule, names in _NAMES.items() for name in names.split()
}
