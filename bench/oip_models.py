"""Models whose outputs tell what the server did with their state: how much came in so far, and in how many steps.

A wrong, lost, shared, stale or doubly advanced state shows as a wrong number, exactly. They are ordinary ONNX files
whose states are plain inputs and outputs, as a stranger's model would have them; `carryover import-onnx` does the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from importing.analysis.analyse import Company

IR_VERSION, OPSET = 10, 17
WORK_WIDTH = 128  # of the square matrices that are multiplied to pass the time
MULTIPLICATIONS = 25  # for one unit of WORK: about a millisecond
MOST_WORK = 60_000.0
NUMBERS = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A model to be imported.

    Args:
        build: Makes the file's content.
        states: What `--state` is given.
        company: Whether rows share runs, as `import_model` has it: some look across them for how long to work.
    """

    build: Callable[[], onnx.ModelProto]
    states: tuple[str, ...] = ()
    company: Company = "proved"


def _value(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _constant(name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def _model(
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "counted", list(inputs), list(outputs), list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _work() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes that turn the largest of WORK (B, 1) into that many units of time and give `one`, (), int64, always 1."""
    truth = TensorProto.BOOL
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["matrix", "identity_matrix"], ["matrix_next"]),
            helper.make_node("Identity", ["go"], ["go_next"]),
        ],
        "multiply",
        [
            _value("turn", TensorProto.INT64),
            _value("go", truth),
            _value("matrix", TensorProto.FLOAT, WORK_WIDTH, WORK_WIDTH),
        ],
        [_value("go_next", truth), _value("matrix_next", TensorProto.FLOAT, WORK_WIDTH, WORK_WIDTH)],
    )
    nodes = [
        helper.make_node("ReduceMax", ["WORK"], ["most"], keepdims=0),
        helper.make_node("Clip", ["most", "no_work", "most_work"], ["bounded"]),
        helper.make_node("Mul", ["bounded", "multiplications"], ["float_turns"]),
        helper.make_node("Cast", ["float_turns"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "", "identity_matrix"], ["product"], body=body),
        helper.make_node("ReduceMax", ["product"], ["float_one"], keepdims=0),
        helper.make_node("Cast", ["float_one"], ["one"], to=TensorProto.INT64),
    ]
    constants = [
        _constant("no_work", 0, np.float32),
        _constant("most_work", MOST_WORK, np.float32),
        _constant("multiplications", MULTIPLICATIONS, np.float32),
        _constant("identity_matrix", np.eye(WORK_WIDTH), np.float32),
    ]
    return nodes, constants


def accumulator(rows: str | int = "B", *, works: bool = False, version: int = 0) -> onnx.ModelProto:
    """Make the model whose OUTPUT (B, 1) is the sum of all INPUT (B, 1) so far and INDEX (B, 1) the number of steps.

    Args:
        rows: The batch axis; 1 fixes it.
        works: Whether a second input WORK (B, 1), float, makes a step last about so many milliseconds.
        version: What the output VERSION (B, 1) says; 0 leaves it out.
    """
    whole = TensorProto.INT64
    inputs = [_value(name, whole, rows, 1) for name in ("INPUT", "total", "steps")]
    outputs = [_value(name, whole, rows, 1) for name in ("OUTPUT", "INDEX", "total_out", "steps_out")]
    constants = [] if works else [_constant("one", 1, np.int64)]
    nodes: list[onnx.NodeProto] = []
    if works:
        inputs.append(_value("WORK", TensorProto.FLOAT, rows, 1))
        nodes, constants = _work()
    nodes += [
        helper.make_node("Add", ["total", "INPUT"], ["total_out"]),
        helper.make_node("Add", ["steps", "one"], ["steps_out"]),
        helper.make_node("Identity", ["total_out"], ["OUTPUT"]),
        helper.make_node("Identity", ["steps_out"], ["INDEX"]),
    ]
    if version:
        outputs.append(_value("VERSION", whole, rows, 1))
        constants += [_constant("zero", 0, np.int64), _constant("version", version, np.int64)]
        nodes.append(helper.make_node("Mul", ["INPUT", "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["nothing", "version"], ["VERSION"]))
    return _model(inputs, outputs, nodes, constants)


def layered() -> onnx.ModelProto:
    """Make a model of floats whose state h (2, B, 3) has its rows second, as recurrent operators have them.

    h[0] sums INPUT (B, 3), h[1] sums h[0]; OUTPUT (B, 6) is both.
    """
    real = TensorProto.FLOAT
    nodes = [
        helper.make_node("Split", ["h"], ["lower", "upper"], axis=0),
        helper.make_node("Unsqueeze", ["INPUT", "first"], ["layer"]),
        helper.make_node("Add", ["lower", "layer"], ["lower_next"]),
        helper.make_node("Add", ["upper", "lower_next"], ["upper_next"]),
        helper.make_node("Concat", ["lower_next", "upper_next"], ["hn"], axis=0),
        helper.make_node("Concat", ["lower_next", "upper_next"], ["wide"], axis=2),
        helper.make_node("Squeeze", ["wide", "first"], ["OUTPUT"]),
    ]
    return _model(
        [_value("INPUT", real, "B", 3), _value("h", real, 2, "B", 3)],
        [_value("OUTPUT", real, "B", 6), _value("hn", real, 2, "B", 3)],
        nodes,
        [_constant("first", [0], np.int64)],
    )


def ragged() -> onnx.ModelProto:
    """Make an accumulator whose INPUT (B, T) may have any number of values a step, which are summed first.

    WORK is as of `accumulator`.
    """
    whole = TensorProto.INT64
    nodes, constants = _work()
    nodes += [
        helper.make_node("ReduceSum", ["INPUT", "last"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "one"], ["counted"]),
        helper.make_node("Add", ["total", "counted"], ["total_out"]),
        helper.make_node("Identity", ["total_out"], ["OUTPUT"]),
    ]
    return _model(
        [_value("INPUT", whole, "B", "T"), _value("total", whole, "B", 1), _value("WORK", TensorProto.FLOAT, "B", 1)],
        [_value("OUTPUT", whole, "B", 1), _value("total_out", whole, "B", 1)],
        nodes,
        [*constants, _constant("last", [1], np.int64)],
    )


def keeper() -> onnx.ModelProto:
    """Make an accumulator of what is positive: any other INPUT (B, 1) leaves the state as it is."""
    whole = TensorProto.INT64
    nodes = [
        helper.make_node("Greater", ["INPUT", "zero"], ["counts"]),
        helper.make_node("Add", ["total", "INPUT"], ["sum"]),
        helper.make_node("Where", ["counts", "sum", "total"], ["total_out"]),
        helper.make_node("Identity", ["sum"], ["OUTPUT"]),
    ]
    return _model(
        [_value("INPUT", whole, "B", 1), _value("total", whole, "B", 1)],
        [_value("OUTPUT", whole, "B", 1), _value("total_out", whole, "B", 1)],
        nodes,
        [_constant("zero", 0, np.int64)],
    )


def identity(kinds: Mapping[str, int], *, works: bool = False) -> onnx.ModelProto:
    """Make a model without state that gives every IN_<type> (B, n) back as OUT_<type>.

    Args:
        kinds: By name of the type, ONNX's number of it.
        works: As of `accumulator`; there must be an IN_INT64 then, whose copy is multiplied by one.
    """
    inputs = [_value(f"IN_{name}", kind, "B", "n") for name, kind in kinds.items()]
    outputs = [_value(f"OUT_{name}", kind, "B", "n") for name, kind in kinds.items()]
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    if works:
        inputs.append(_value("WORK", TensorProto.FLOAT, "B", 1))
        nodes, constants = _work()
        nodes.append(helper.make_node("Mul", ["IN_INT64", "one"], ["OUT_INT64"]))
    nodes += [
        helper.make_node("Identity", [f"IN_{name}"], [f"OUT_{name}"])
        for name in kinds
        if not (works and name == "INT64")
    ]
    return _model(inputs, outputs, nodes, constants)


_COUNTED = ("total=total_out", "steps=steps_out")
SOURCES: Mapping[str, Source] = {
    "accumulator": Source(accumulator, _COUNTED),
    "accumulator-one": Source(lambda: accumulator(1), _COUNTED),
    "accumulator-slow": Source(lambda: accumulator(works=True), _COUNTED, "insisted"),
    "layered": Source(layered, ("h=hn,axis=1",)),
    "ragged": Source(ragged, ("total=total_out",), "insisted"),
    "keeper": Source(keeper, ("total=total_out",)),
    "identity": Source(lambda: identity({"FP32": TensorProto.FLOAT})),
    "identity-slow": Source(lambda: identity({"INT64": TensorProto.INT64}, works=True), company="insisted"),
    "identity-numbers": Source(lambda: identity(NUMBERS)),
    "identity-bfloat": Source(lambda: identity({"BF16": TensorProto.BFLOAT16})),
    "identity-bytes": Source(lambda: identity({"BYTES": TensorProto.STRING})),
}
