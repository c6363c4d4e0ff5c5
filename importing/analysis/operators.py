"""What operators that compute do with the rows of a batch that their inputs have: leave them, or join them.

Each rule is given a node of whose inputs some have rows at a place that is known, and says so of its outputs. Those of
operators that only move elements about are in `importing.analysis.moves`, of sums of products in
`importing.analysis.products`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import onnx

from importing.analysis import moves, products
from importing.analysis.look import Flows, Look, NotFollowed, moved
from importing.analysis.trace import UNKNOWN, Flow, Joined, Place

_NEW_SOFTMAX: Final = 13  # before, it computed over its axis and all after it


def elementwise(look: Look) -> Flow:
    """Axes are aligned from the last, as broadcasting does it."""
    rank = len(look.out_shape())
    shifted = {moved(place, rank - len(look.shape(index)) + place.axis) for index, place in look.rows.items()}
    if len({place.axis for place in shifted}) > 1:
        return look.joined("sets rows against each other")
    return shifted.pop() if len(shifted) == 1 else UNKNOWN


def first(look: Look) -> Flow:
    """Element by element of its first input; the others say how, alike for all rows."""
    return look.only()


def reduce(look: Look) -> Flow:
    """Some axes become one number."""
    place, rank = look.only(), len(look.shape(0))
    given = look.numbers("axes", 1)
    if not given and look.attribute("noop_with_empty_axes", 0):
        return place
    axes = {axis % rank for axis in given} if given else set(range(rank))
    if place.axis in axes:
        return look.joined("computes over the rows")
    return _drop(place, axes, look)


def pick(look: Look) -> Flow:
    """The place of the largest, along one axis."""
    place, axis = look.only(), look.axis(0, len(look.shape(0)))
    return look.joined("computes over the rows") if place.axis == axis else _drop(place, {axis}, look)


def along(default: int) -> Callable[[Look], Flow]:
    """Computes along one axis, whose size may change."""

    def rule(look: Look) -> Flow:
        axis, place = look.axis(default, len(look.shape(0))), look.only()
        return look.joined("computes over the rows") if place.axis == axis else place

    return rule


def softmax(look: Look) -> Flow:
    """Along one axis; of old along all from there on."""
    place, rank = look.only(), len(look.shape(0))
    old = look.opset < _NEW_SOFTMAX
    axis = look.axis(1 if old else -1, rank)
    met = place.axis >= axis if old else place.axis == axis
    return look.joined("computes over the rows") if met else place


def cumulate(look: Look) -> Flow:
    """Running sums."""
    place = look.only()
    (axis,) = look.numbers("axis", 1) or [0]
    return look.joined("computes over the rows") if axis % len(look.shape(0)) == place.axis else place


def normalize(start: int | None) -> Callable[[Look], Sequence[Flow]]:
    """Over all axes from one on; None: that is an attribute."""

    def rule(look: Look) -> Sequence[Flow]:
        place = look.only()
        axis = look.axis(-1, len(look.shape(0))) if start is None else start
        flow = look.joined("computes over the rows") if place.axis >= axis else place
        return [flow, *[flow if isinstance(flow, Joined) else UNKNOWN] * (len(look.node.output) - 1)]

    return rule


def batch_normalize(look: Look) -> Flow:
    """With statistics that it was given; in training with those of the batch."""
    return look.joined("computes over the rows") if look.attribute("training_mode", 0) else look.only()


def normalize_axes(look: Look) -> Flow:
    """Over some axes, which stay."""
    place, rank = look.only(), len(look.shape(0))
    met = place.axis in {axis % rank for axis in look.attribute("axes", [0, 2, 3])}
    return look.joined("computes over the rows") if met else place


def transform(look: Look) -> Flow:
    """A Fourier transform: along one axis, and the last are real and imaginary parts."""
    place, rank = look.only(), len(look.shape(0))
    given = look.numbers("axis", 2)
    axis = given[0] % rank if given else (1 if look.opset < 20 else rank - 2)
    return look.joined("computes over the rows") if place.axis in (axis, rank - 1) else place


def frames(look: Look) -> Flow:
    """A Fourier transform of frames: rows are first."""
    return look.only() if look.only() == Place(0) else UNKNOWN


def recur(look: Look) -> Sequence[Flow]:
    """LSTM, GRU and RNN, time first: rows are second."""
    expected = {0: 1, 4: 0, 5: 1, 6: 1}
    if look.rows.get(0) == Place(0):
        return [look.joined("takes rows for steps in time")] * len(look.node.output)
    if look.attribute("layout", 0) or any(Place(expected.get(i, -1)) != place for i, place in look.rows.items()):
        raise NotFollowed
    return [Place(2), Place(1), Place(1)][: len(look.node.output)]


def one_hot(look: Look) -> Flow:
    """Indices become vectors, along a new axis."""
    place, axis = look.only(), look.axis(-1, len(look.out_shape()))
    return place if place.axis < axis else moved(place, place.axis + 1)


def whole(look: Look) -> Flow:
    """Depends on all of what it is given."""
    return look.joined("looks at all rows at once")


def compress(look: Look) -> Flow:
    """Some of what lies along an axis, or of all elements."""
    given = look.attribute("axis")
    if given is None or list(look.rows) != [0] or look.rows[0].axis == given % len(look.shape(0)):
        return whole(look)
    return look.rows[0]


def keeps_size(node: onnx.NodeProto, indices: Sequence[int]) -> bool:
    """Whether the values of these inputs have no say in how much a node gives."""
    return node.op_type in _SIZED_BY_SIZES or (node.op_type in _SIZED_BY_FIRST and list(indices) == [0])


def _drop(place: Place, axes: set[int], look: Look) -> Place:
    gone = 0 if look.attribute("keepdims", 1) else sum(axis < place.axis for axis in axes)
    return moved(place, place.axis - gone)


_NAMES: Final[Mapping[Callable[[Look], Flows], str]] = {
    elementwise: """Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot
        BitwiseOr BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp FastGelu Floor Gelu
        Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min
        Mish Mod Mul Neg Not Or PRelu Pow QuickGelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus
        Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor""",
    first: "CastLike DequantizeLinear QuantizeLinear",
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
    transform: "DFT",
    frames: "STFT",
    recur: "GRU LSTM RNN",
    one_hot: "OneHot",
    compress: "Compress",
    whole: "DynamicQuantizeLSTM DynamicQuantizeLinear DynamicQuantizeMatMul NonZero Unique",
    moves.reshape: "Flatten Reshape Squeeze Unsqueeze",
    moves.pad: "Pad",
    moves.transpose: "Transpose",
    moves.gather: "Gather",
    moves.gather_elements: "GatherElements",
    moves.gather_nd: "GatherND",
    moves.scatter_elements: "ScatterElements",
    moves.scatter_nd: "ScatterND",
    moves.cut: "Slice",
    moves.split: "Split",
    moves.concat: "Concat",
    moves.resize: "Resize Upsample",
    moves.tile: "Tile",
    moves.expand: "Expand",
    moves.fill: "ConstantOfShape",
    moves.count_up: "Range",
    moves.blocks: "DepthToSpace SpaceToDepth",
    moves.triangle: "Trilu",
    moves.diagonal: "EyeLike",
    moves.reverse: "ReverseSequence",
    products.multiply: "MatMul MatMulInteger",
    products.general_multiply: "Gemm",
    products.convolve: "Conv ConvInteger ConvTranspose",
    products.pool: "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool",
    products.pool_with_places: "MaxPool",
    products.quantized_convolve: "QLinearConv",
    products.quantized_multiply: "QLinearMatMul",
    products.einsum: "Einsum",
}
RULES: Final[Mapping[str, Callable[[Look], Flows]]] = {
    name: rule for rule, names in _NAMES.items() for name in names.split()
}
# Whose outputs depend on all of what they read, wherever the rows are in it.
WHOLE: Final = frozenset(name for name, rule in RULES.items() if rule is whole)
REDUCERS: Final = frozenset(name for name, rule in RULES.items() if rule is reduce)
# Of what these give there is as much as their inputs' sizes say, whatever the values; of the others only those of the
# first input do not matter, since the rest are axes.
_SIZED_BY_SIZES: Final = frozenset(name for name, rule in RULES.items() if rule in (elementwise, first)) | {"Gather"}
_SIZED_BY_FIRST: Final = frozenset(
    name for name, rule in RULES.items() if rule in (reduce, pick, softmax, cumulate)
) | frozenset({"LayerNormalization", "LpNormalization", "Transpose", "Unsqueeze"})
# Whose other inputs than the first may have the number of rows as a size.
SIZES: Final = frozenset({"ConstantOfShape", "Expand", "Range", "Reshape", "Resize", "Slice", "Tile"})
