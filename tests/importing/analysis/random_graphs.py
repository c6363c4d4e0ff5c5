"""Random graphs of operators that have rules: x (B, 4, 6) -> y, most of them of no use."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from tests.importing import recurrent_models as models
from tests.importing.analysis.graphs import SHAPE, Array, build, ints
from tests.importing.recurrent_models import constant, node

_ROWS: Final = 5  # of the run that nodes are tried in
_FAR: Final = 2**63 - 1
_MOST: Final = 4096  # elements


class Grown:
    """A graph that grows by a node at a time; one that does not run is not kept.

    Args:
        generator: Chooses.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.values: dict[str, Array] = {"x": generator.standard_normal((_ROWS, *SHAPE)).astype(np.float32)}
        self._names = 0

    def grow(self) -> None:
        """Try to add one thing."""
        known = len(self.nodes), len(self.weights), dict(self.values)
        try:
            _GROWTHS[self.generator.integers(len(_GROWTHS))](self)
        except _DoesNotRun:
            self.values = known[2]
            del self.nodes[known[0] :], self.weights[known[1] :]

    def model(self) -> onnx.ModelProto | None:
        """Of what has come last, or of nothing."""
        floats = [name for name, array in self.values.items() if array.dtype == np.float32 and name != "x"]
        if not floats:
            return None
        return build(([*self.nodes, node("Identity", [floats[-1]], ["y"])], self.weights))

    def pick(self, least: int = 1) -> str:
        """A value of floats with so many axes, the latest more likely."""
        names = [n for n, a in self.values.items() if a.dtype == np.float32 and a.ndim >= least]
        if not names:
            raise _DoesNotRun
        return names[-1 - min(int(self.generator.exponential(0.8)), len(names) - 1)]

    def axis(self, name: str) -> int:
        """One of its axes."""
        if not self.values[name].ndim:
            raise _DoesNotRun
        return int(self.generator.integers(self.values[name].ndim))

    def weight(self, array: Any) -> str:
        """A constant."""
        name = self._name()
        array = np.asarray(array)
        self.weights.append(
            ints(name, *array) if array.ndim == 1 and array.dtype.kind == "i" else constant(name, array, array.dtype)
        )
        self.values[name] = array
        return name

    def add(self, kind: str, *inputs: str, count: int = 1, **attributes: Any) -> str:
        """A node; its first output."""
        outputs = [self._name() for _ in range(count)]
        made = node(kind, list(inputs), outputs, **attributes)
        feeds = {name: self.values[name] for name in inputs if name}
        graph = helper.make_graph(
            [made],
            "one",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in feeds.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            results = session.run(None, feeds)
        except Exception as error:
            raise _DoesNotRun from error
        if any(not array.size or array.size > _MOST for array in results):
            raise _DoesNotRun
        self.values.update(zip(outputs, results, strict=True))
        self.nodes.append(made)
        return outputs[0]

    def _name(self) -> str:
        self._names += 1
        return f"v{self._names}"


class _DoesNotRun(Exception):
    """This node does not take these values."""


def _one(g: Grown) -> None:
    g.add(str(g.generator.choice(["Tanh", "Abs", "Relu", "Neg", "Sigmoid", "Identity", "Floor"])), g.pick())


def _two(g: Grown) -> None:
    g.add(str(g.generator.choice(["Add", "Sub", "Mul", "Max"])), g.pick(), g.pick())


def _reduce(g: Grown) -> None:
    name, keep = g.pick(), int(g.generator.integers(2))
    g.add(str(g.generator.choice(["ReduceMax", "ReduceMean"])), name, axes=[g.axis(name)], keepdims=keep)


def _sum(g: Grown) -> None:
    name = g.pick()
    g.add("ReduceSum", name, g.weight([g.axis(name)]), keepdims=1)


def _along(g: Grown) -> None:
    name = g.pick()
    g.add(str(g.generator.choice(["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"])), name, axis=g.axis(name))


def _cumulate(g: Grown) -> None:
    name = g.pick()
    g.add("CumSum", name, g.weight(np.array(g.axis(name), np.int64)))


def _transpose(g: Grown) -> None:
    name = g.pick(2)
    g.add("Transpose", name, perm=[int(i) for i in g.generator.permutation(g.values[name].ndim)])


def _reshape(g: Grown) -> None:
    name = g.pick(2)
    sizes = [1, 2, 3, 4, 6, 8, 12, 24]
    shape = [int(g.generator.choice(sizes)) for _ in range(int(g.generator.integers(1, 4)))]
    shape[int(g.generator.integers(len(shape)))] = -1
    g.add("Reshape", name, g.weight(shape))


def _flatten(g: Grown) -> None:
    name = g.pick()
    g.add("Flatten", name, axis=g.axis(name))


def _unsqueeze(g: Grown) -> None:
    name = g.pick()
    g.add("Unsqueeze", name, g.weight([g.axis(name)]))


def _squeeze(g: Grown) -> None:
    name = g.pick(2)
    at = [axis for axis, size in enumerate(g.values[name].shape) if size == 1]
    g.add("Squeeze", name, *([g.weight(at[:1])] if at and g.generator.random() < 0.8 else []))


def _gather(g: Grown) -> None:
    name = g.pick(2)
    g.add("Gather", name, g.weight(g.generator.integers(0, 4, int(g.generator.integers(1, 3)))), axis=g.axis(name))


def _gather_nd(g: Grown) -> None:
    g.add("GatherND", g.pick(2), g.weight(np.array([[0, 1], [2, 0]], np.int64)))


def _gather_elements(g: Grown) -> None:
    name = g.pick(2)
    best = g.add("ArgMax", name, axis=g.axis(name), keepdims=1)
    g.add("GatherElements", name, best, axis=g.axis(name))


def _scatter_elements(g: Grown) -> None:
    name = g.pick(2)
    axis = g.axis(name)
    best = g.add("ArgMax", name, axis=axis, keepdims=1)
    g.add("ScatterElements", name, best, g.add("ReduceMax", name, axes=[axis], keepdims=1), axis=g.axis(name))


def _scatter_nd(g: Grown) -> None:
    name = g.pick(2)
    g.add("ScatterND", name, g.weight(np.array([[0]], np.int64)), g.pick(2))


def _slice(g: Grown) -> None:
    name = g.pick()
    start, end, step = [(0, _FAR, 1), (0, 3, 1), (1, _FAR, 1), (0, 4, 1), (-1, -_FAR, -1), (0, 12, 1)][
        g.generator.integers(6)
    ]
    g.add("Slice", name, g.weight([start]), g.weight([end]), g.weight([g.axis(name)]), g.weight([step]))


def _concat(g: Grown) -> None:
    name = g.pick()
    g.add("Concat", name, g.pick(), axis=g.axis(name))


def _split(g: Grown) -> None:
    name = g.pick()
    g.add("Split", name, axis=g.axis(name), count=int(g.generator.integers(1, 3)))


def _pad(g: Grown) -> None:
    name = g.pick()
    pads = np.zeros(2 * g.values[name].ndim, np.int64)
    pads[g.axis(name)] = 1
    pads[g.values[name].ndim + g.axis(name)] = g.generator.integers(-1, 2)
    g.add("Pad", name, g.weight(pads))


def _tile(g: Grown) -> None:
    name = g.pick()
    repeats = np.ones(g.values[name].ndim, np.int64)
    repeats[g.axis(name)] = 2
    g.add("Tile", name, g.weight(repeats))


def _product(g: Grown) -> None:
    name = g.pick(2)
    wide = g.values[name].shape[-1]
    g.add("MatMul", name, g.weight(g.generator.standard_normal((wide, 3)).astype(np.float32)))


def _product_of_two(g: Grown) -> None:
    name = g.pick(2)
    order = list(range(g.values[name].ndim))
    order[-2:] = order[:-3:-1]
    g.add("MatMul", g.pick(2), g.add("Transpose", name, perm=order))


def _general_product(g: Grown) -> None:
    trans = int(g.generator.integers(2))
    g.add("Gemm", g.pick(2), g.pick(2), transA=trans, transB=1 - trans)


def _einsum(g: Grown) -> None:
    equation = str(g.generator.choice(["ab,cb->ac", "ab,ab->a", "abc,adc->abd", "abc->cab", "abc,abd->acd", "ab->b"]))
    g.add("Einsum", *[g.pick(2) for _ in equation.split("->")[0].split(",")], equation=equation)


def _normalize(g: Grown) -> None:
    name = g.pick(2)
    axis = g.axis(name)
    g.add("LayerNormalization", name, g.weight(np.ones(g.values[name].shape[axis:], np.float32)), axis=axis)


def _largest(g: Grown) -> None:
    name = g.pick()
    g.add("TopK", name, g.weight([2]), axis=g.axis(name), count=2)


def _place(g: Grown) -> None:
    name = g.pick()
    g.add("Cast", g.add("ArgMax", name, axis=g.axis(name), keepdims=int(g.generator.integers(2))), to=models.FLOAT)


def _triangle(g: Grown) -> None:
    g.add("Trilu", g.pick(2), upper=int(g.generator.integers(2)))


def _convolve(g: Grown) -> None:
    name = g.pick(3)
    g.add("Conv", name, g.weight(np.ones((2, g.values[name].shape[1], 2), np.float32)))


def _pool(g: Grown) -> None:
    kernel = [2] * (g.values[name := g.pick(3)].ndim - 2)
    g.add(str(g.generator.choice(["MaxPool", "AveragePool"])), name, kernel_shape=kernel)


def _recur(g: Grown) -> None:
    name = g.pick(3)
    wide = g.values[name].shape[-1]
    weights = [g.weight(g.generator.standard_normal(shape).astype(np.float32)) for shape in ((1, 6, wide), (1, 6, 2))]
    g.add("GRU", name, *weights, hidden_size=2, count=2)


def _which(g: Grown) -> None:
    name = g.pick()
    g.add("Where", g.add("Greater", name, g.weight(np.float32(0))), name, g.pick())


def _compress(g: Grown) -> None:
    name = g.pick()
    g.add("Compress", name, g.weight(np.array([True, False, True])), axis=g.axis(name))


def _as_shaped(g: Grown) -> None:
    g.add("Reshape", g.pick(), g.add("Shape", g.pick()))


def _expand(g: Grown) -> None:
    shape = g.add("Shape", g.pick())
    if g.generator.random() < 0.5:
        shape = g.add("Min", shape, g.weight([int(g.generator.choice([5, 6, 40]))]))
    g.add("Expand", g.weight(np.ones(1, np.float32)) if g.generator.random() < 0.6 else g.pick(), shape)


def _by_size(g: Grown) -> None:
    name = g.pick()
    size = g.add("Gather", g.add("Shape", name), g.weight([g.axis(name)]))
    g.add("Div", g.pick(), g.add("Cast", size, to=models.FLOAT))


def _up_to_size(g: Grown) -> None:
    name = g.pick()
    size = g.add("Gather", g.add("Shape", name), g.weight([g.axis(name)]))
    other = g.pick()
    g.add("Slice", other, g.weight([0]), size, g.weight([g.axis(other)]))


def _size_of_two(g: Grown) -> None:
    """An axis and the next one as one."""
    name = g.pick(2)
    shape = g.add("Shape", name)
    product = g.add("Mul", g.add("Gather", shape, g.weight([0])), g.add("Gather", shape, g.weight([1])))
    rest = g.add("Slice", shape, g.weight([2]), g.weight([_FAR])) if g.values[name].ndim > 2 else None
    g.add("Reshape", name, g.add("Concat", product, *([rest] if rest else []), axis=0))


_GROWTHS: Final[list[Callable[[Grown], None]]] = [
    _one, _one, _two, _two, _reduce, _sum, _along, _cumulate, _transpose, _transpose, _reshape, _reshape, _flatten,
    _unsqueeze, _squeeze, _gather, _gather_nd, _gather_elements, _scatter_elements, _scatter_nd, _slice, _concat,
    _split, _pad, _tile, _product, _product, _product_of_two, _general_product, _einsum, _normalize, _largest,
    _place, _triangle, _convolve, _pool, _recur, _which, _compress, _as_shaped, _expand, _by_size, _up_to_size,
    _size_of_two,
]  # fmt: skip


def random_model(seed: int, nodes: int = 7) -> onnx.ModelProto | None:
    """A model of so many nodes or a few more; None where none came about."""
    grown = Grown(np.random.default_rng(seed))
    for _ in range(6 * nodes):
        if len(grown.nodes) < nodes:
            grown.grow()
    return grown.model()
