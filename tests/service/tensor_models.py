"""Tiny bundles of the task `tensors`, whose whole behaviour is integer arithmetic."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.manifest import DType, GraphSpec, ImportedSpec, Manifest, StateSpec, TensorSpec

INITIAL_TOTAL = 5
LOOKUP = 10
_TYPES: dict[str, int] = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "uint16": TensorProto.UINT16,
    "int16": TensorProto.INT16,
    "uint32": TensorProto.UINT32,
    "int32": TensorProto.INT32,
    "uint64": TensorProto.UINT64,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "bfloat16": TensorProto.BFLOAT16,
    "string": TensorProto.STRING,
}


def spec(name: str, dtype: DType, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def write_accumulator(folder: Path) -> Manifest:
    """Two states: `total` (1,) float32 from INITIAL_TOTAL on, and `count` () int64.

    total += scale * the sum of values; outputs: that total (B, 1), how many steps there were (B,), and the values twice
    over (B, E), whose size the graph does not tell.
    """
    nodes = [
        _node("Gather", ["total_pool", "read_slots"], "old_total"),
        _node("Gather", ["count_pool", "read_slots"], "old_count"),
        _node("ReduceSum", ["values", "last"], "sum", keepdims=1),
        _node("Mul", ["sum", "scale"], "scaled"),
        _node("Add", ["old_total", "scaled"], "total"),
        _node("Add", ["old_count", "one"], "count"),
        _node("Concat", ["values", "values"], "twice", axis=1),
        _node("Unsqueeze", ["write_slots", "last"], "rows"),
        _node("ScatterND", ["total_pool", "rows", "total"], "total_pool_out"),
        _node("ScatterND", ["count_pool", "rows", "count"], "count_pool_out"),
    ]
    pools = (spec("total_pool", "float32", "N", 1), spec("count_pool", "int64", "N"))
    inputs = (
        spec("values", "float32", "B", "D"),
        spec("scale", "float32"),
        spec("read_slots", "int64", "B"),
        spec("write_slots", "int64", "B"),
        *pools,
    )
    outputs = (spec("total", "float32", "B", 1), spec("count", "int64", "B"), spec("twice", "float32", "B", "E"))
    pools_out = tuple(pool.model_copy(update={"name": f"{pool.name}_out"}) for pool in pools)
    constants = {"last": np.array([-1], np.int64), "one": np.array(1, np.int64)}
    graph = _save(folder / "step.onnx", nodes, constants, inputs, (*outputs, *pools_out))
    np.savez(folder / "initial.npz", total=np.array([INITIAL_TOTAL], np.float32))
    states = (
        StateSpec(name="total", dtype="float32", shape=(1,), initial="file", pool_input="total_pool",
                  pool_output="total_pool_out", sequence_input="total_in", sequence_output="total_out"),
        StateSpec(name="count", dtype="int64", shape=(), pool_input="count_pool", pool_output="count_pool_out",
                  sequence_input="count_in", sequence_output="count_out"),
    )  # fmt: skip
    imported = ImportedSpec(original="original.onnx", examples={"D": 3}, shared_examples={"scale": 1})
    return _manifest({"step": graph}, imported, states, initial_states_file="initial.npz")


def write_padded(folder: Path) -> Manifest:
    """No state: `sums` (B, 2) over the true length of each row of x (B, T, 2), and `doubled` (B, T, 2)."""
    nodes = [
        _node("Shape", ["x"], "shape"),
        _node("Gather", ["shape", "one"], "width"),
        _node("Range", ["zero", "width", "one"], "positions"),
        _node("Unsqueeze", ["lengths", "axis"], "ends"),
        _node("Less", ["positions", "ends"], "real"),
        _node("Cast", ["real"], "mask", to=TensorProto.FLOAT),
        _node("Unsqueeze", ["mask", "last"], "wide"),
        _node("Mul", ["x", "wide"], "masked"),
        _node("ReduceSum", ["masked", "axis"], "sums", keepdims=0),
        _node("Add", ["x", "x"], "doubled"),
    ]
    constants = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "axis": np.array([1], np.int64),
        "last": np.array([2], np.int64),
    }
    inputs = (spec("x", "float32", "B", "T", 2), spec("lengths", "int64", "B"))
    outputs = (spec("sums", "float32", "B", 2), spec("doubled", "float32", "B", "T", 2))
    graph = _save(folder / "run.onnx", nodes, constants, inputs, outputs)
    return _manifest({"run": graph}, ImportedSpec(original="original.onnx", lengths_input="lengths"))


def write_identity(folder: Path, dtype: DType) -> Manifest:
    """No state: x (B, D) of any type, and the same again as y."""
    inputs, outputs = (spec("x", dtype, "B", "D"),), (spec("y", dtype, "B", "D"),)
    graph = _save(folder / "run.onnx", [_node("Identity", ["x"], "y")], {}, inputs, outputs)
    return _manifest({"run": graph}, ImportedSpec(original="original.onnx", examples={"D": 2}, zero_sizes=True))


def write_lookup(folder: Path) -> Manifest:
    """Two states: `seen` (1,) counts steps, `total` (1,) adds table[index] of LOOKUP; other indices make a run fail."""
    nodes = [
        _node("Gather", ["seen_pool", "read_slots"], "old_seen"),
        _node("Gather", ["total_pool", "read_slots"], "old_total"),
        _node("Add", ["old_seen", "one"], "seen"),
        _node("Unsqueeze", ["write_slots", "last"], "rows"),
        _node("ScatterND", ["seen_pool", "rows", "seen"], "seen_pool_out"),
        # After the first state has been written.
        _node("Gather", ["seen_pool_out", "write_slots"], "written"),
        _node("Mul", ["written", "zero"], "nothing"),
        _node("Squeeze", ["nothing", "last"], "flat"),
        _node("Cast", ["flat"], "offset", to=TensorProto.INT64),
        _node("Add", ["index", "offset"], "place"),
        _node("Gather", ["table", "place"], "entry"),
        _node("Add", ["old_total", "entry"], "total"),
        _node("ScatterND", ["total_pool", "rows", "total"], "total_pool_out"),
    ]
    constants = {
        "last": np.array([-1], np.int64),
        "one": np.array([1], np.float32),
        "zero": np.array([0], np.float32),
        "table": np.arange(LOOKUP, dtype=np.float32).reshape(-1, 1),
    }
    return _save_counters(folder, nodes, constants, spec("index", "int64", "B"))


def write_endless(folder: Path) -> Manifest:
    """No state: x (B, 1) is returned as y once a loop of `trips` (), shared, turns is over."""
    body = helper.make_graph(
        [_node("Identity", ["keep_on"], "go_on"), _node("Add", ["carried", "step"], "next")],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [None, 1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [None, 1]),
        ],
        [numpy_helper.from_array(np.array([[0]], np.float32), "step")],
    )
    nodes = [_node("Loop", ["trips", "", "x"], "y", body=body)]
    inputs, outputs = (spec("x", "float32", "B", 1), spec("trips", "int64")), (spec("y", "float32", "B", 1),)
    graph = _save(folder / "run.onnx", nodes, {}, inputs, outputs)
    return _manifest({"run": graph}, ImportedSpec(original="original.onnx", shared_examples={"trips": 1}))


def write_patient(folder: Path) -> Manifest:
    """Two states: `seen` (1,) counts steps, `total` (1,) counts turns: a loop goes on for the most turns of any row."""
    body = helper.make_graph(
        [
            _node("Identity", ["keep_on"], "go_on"),
            _node("Less", ["turn", "wanted"], "more"),
            _node("Cast", ["more"], "one_more", to=TensorProto.FLOAT),
            _node("Add", ["carried", "one_more"], "next"),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [None, 1]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [None, 1]),
        ],
    )
    nodes = [
        _node("Gather", ["seen_pool", "read_slots"], "old_seen"),
        _node("Gather", ["total_pool", "read_slots"], "old_total"),
        _node("Add", ["old_seen", "one"], "seen"),
        _node("Unsqueeze", ["write_slots", "last"], "rows"),
        _node("ScatterND", ["seen_pool", "rows", "seen"], "seen_pool_out"),
        # After the first state has been written.
        _node("Gather", ["seen_pool_out", "write_slots"], "written"),
        _node("Mul", ["written", "zero"], "nothing"),
        _node("Cast", ["nothing"], "offset", to=TensorProto.INT64),
        _node("Unsqueeze", ["turns", "last"], "column"),
        _node("Add", ["column", "offset"], "wanted"),
        _node("ReduceMax", ["wanted"], "trips", keepdims=0),
        _node("Loop", ["trips", "", "old_total"], "total", body=body),
        _node("ScatterND", ["total_pool", "rows", "total"], "total_pool_out"),
    ]
    constants = {
        "last": np.array([-1], np.int64),
        "one": np.array([1], np.float32),
        "zero": np.array([0], np.float32),
    }
    return _save_counters(folder, nodes, constants, spec("turns", "int64", "B"))


def write_narrow(folder: Path, most: int) -> Manifest:
    """Two states: `seen` (1,) counts steps, `total` (1,) adds x (B, 1) of the first rows; more than `most` fail."""
    nodes = [
        _node("Gather", ["seen_pool", "read_slots"], "old_seen"),
        _node("Gather", ["total_pool", "read_slots"], "old_total"),
        _node("Add", ["old_seen", "one"], "seen"),
        _node("Add", ["old_total", "x"], "sum"),
        _node("Slice", ["sum", "first", "most"], "total"),
        _node("Unsqueeze", ["write_slots", "last"], "rows"),
        _node("ScatterND", ["seen_pool", "rows", "seen"], "seen_pool_out"),
        _node("ScatterND", ["total_pool", "rows", "total"], "total_pool_out"),
    ]
    constants = {
        "last": np.array([-1], np.int64),
        "first": np.array([0], np.int64),
        "most": np.array([most], np.int64),
        "one": np.array([1], np.float32),
    }
    return _save_counters(folder, nodes, constants, spec("x", "float32", "B", 1))


def write_meeting(folder: Path, scale: float = 1) -> Manifest:
    """Two states: `seen` (1,) counts steps, `total` (1,) adds scale * (x (B, 1) less the mean of all rows)."""
    nodes = [
        _node("Gather", ["seen_pool", "read_slots"], "old_seen"),
        _node("Gather", ["total_pool", "read_slots"], "old_total"),
        _node("Add", ["old_seen", "one"], "seen"),
        _node("ReduceMean", ["x", "first"], "mean", keepdims=1),
        _node("Sub", ["x", "mean"], "apart"),
        _node("Mul", ["apart", "scale"], "rest"),
        _node("Add", ["old_total", "rest"], "total"),
        _node("Unsqueeze", ["write_slots", "last"], "rows"),
        _node("ScatterND", ["seen_pool", "rows", "seen"], "seen_pool_out"),
        _node("ScatterND", ["total_pool", "rows", "total"], "total_pool_out"),
    ]
    constants = {
        "last": np.array([-1], np.int64),
        "first": np.array([0], np.int64),
        "one": np.array([1], np.float32),
        "scale": np.array([scale], np.float32),
    }
    return _save_counters(folder, nodes, constants, spec("x", "float32", "B", 1))


def _save_counters(
    folder: Path, nodes: Sequence[onnx.NodeProto], constants: dict[str, Any], given: TensorSpec
) -> Manifest:
    """A model of one input, with the states and outputs `seen` and `total`."""
    pools = tuple(spec(f"{name}_pool", "float32", "N", 1) for name in ("seen", "total"))
    inputs = (given, spec("read_slots", "int64", "B"), spec("write_slots", "int64", "B"), *pools)
    outputs = (spec("seen", "float32", "B", 1), spec("total", "float32", "B", 1))
    pools_out = tuple(pool.model_copy(update={"name": f"{pool.name}_out"}) for pool in pools)
    graph = _save(folder / "step.onnx", nodes, constants, inputs, (*outputs, *pools_out))
    states = tuple(
        StateSpec(name=name, dtype="float32", shape=(1,), pool_input=f"{name}_pool", pool_output=f"{name}_pool_out")
        for name in ("seen", "total")
    )
    return _manifest({"step": graph}, ImportedSpec(original="original.onnx"), states)


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Any],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> GraphSpec:
    def infos(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(s.name, _TYPES[s.dtype], list(s.shape)) for s in specs]

    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), path.stem, infos(inputs), infos(outputs), held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return GraphSpec(file=path.name, inputs=inputs, outputs=outputs)


def _manifest(graphs: Any, imported: ImportedSpec, states: tuple[StateSpec, ...] = (), **more: Any) -> Manifest:
    return Manifest(
        name="tensors",
        version=1,
        task="tensors",
        precision="fp32",
        graphs=graphs,
        states=states,
        tokenizers={},
        imported=imported,
        created="2026-01-01T00:00:00Z",
        files={},
        **more,
    )
