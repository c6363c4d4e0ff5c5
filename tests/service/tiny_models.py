"""Tiny bundles whose whole behaviour is integer arithmetic, so that plain Python can say what is right.

The state of every model is one number, `hash`, advanced by `next_hash`; the log-probabilities are the row of a fixed
table that the state names. A wrong, lost, shared or stale state shows as a wrong token, exactly.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.manifest import (
    DecodingDefaults,
    GraphKind,
    GraphSpec,
    Manifest,
    MemorySpec,
    StateSpec,
    Task,
    TensorSpec,
    TokenizerSpec,
)

MODULUS = 61
VOCABULARY = 7
TOP_K = 6
END = 3
_TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def make_table(seed: int = 0, vocabulary: int = VOCABULARY, sharpness: float = 1.5) -> npt.NDArray[np.float32]:
    """Log-probabilities (MODULUS, V) of each state; `<pad>` and `<s>` are never chosen, as in real models."""
    logits = np.random.default_rng(seed).normal(size=(MODULUS, vocabulary)) * sharpness
    table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    table[:, [0, 2]] = -1e9
    narrow: npt.NDArray[np.float32] = table.astype(np.float32)
    return narrow


def next_hash(state: int, token: int, memory_sum: int = 0) -> int:
    return (7 * state + 13 * token + 3 * memory_sum + 1) % MODULUS


def source_hash(source: Sequence[int]) -> int:
    """What encode leaves in the state, before the first step."""
    return sum(source) % MODULUS


STATE = StateSpec(name="hash", dtype="float32", shape=(1,), pool_input="hash_pool", pool_output="hash_pool_out")
MEMORY = MemorySpec(name="memory", dtype="float32", shape=(2,), pool_input="memory_pool", pool_output="memory_pool_out")
_POOL = TensorSpec(name="hash_pool", dtype="float32", shape=("N", 1))
_POOL_OUT = TensorSpec(name="hash_pool_out", dtype="float32", shape=("N", 1))
_MEMORY_POOL = TensorSpec(name="memory_pool", dtype="float32", shape=("P", 2))
_MEMORY_POOL_OUT = TensorSpec(name="memory_pool_out", dtype="float32", shape=("P", 2))


def _ints(name: str, *shape: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="int64", shape=shape)


def _floats(name: str, *shape: str | int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


class _Graph:
    """Collects nodes and constants; every call adds one node and returns its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        name = f"const_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        names = list(outputs) or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0]

    def column(self, ints: str) -> str:
        """(B,) int64 -> (B, 1) float32."""
        return self.op("Unsqueeze", self.op("Cast", ints, to=TensorProto.FLOAT), self.const([1], np.int64))

    def mask(self, lengths: str, like: str) -> str:
        """1.0 where the position is below the length: (B,), (B, X) -> (B, X)."""
        width = self.op("Gather", self.op("Shape", like), self.const(1, np.int64))
        positions = self.op("Range", self.const(0, np.int64), width, self.const(1, np.int64))
        real = self.op("Less", positions, self.op("Unsqueeze", lengths, self.const([1], np.int64)))
        return self.op("Cast", real, to=TensorProto.FLOAT)

    def scatter(self, pool: str, rows: str, values: str, output: str) -> None:
        """Write values (..., W) into the rows (...) of a pool."""
        self.op("ScatterND", pool, self.op("Unsqueeze", rows, self.const([-1], np.int64)), values, outputs=[output])

    def save(self, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> GraphSpec:
        def infos(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(s.name, _TYPES[s.dtype], list(s.shape)) for s in specs]

        graph = helper.make_graph(self.nodes, path.stem, infos(inputs), infos(outputs), self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return GraphSpec(file=path.name, inputs=tuple(inputs), outputs=tuple(outputs))


def _step(folder: Path, table: npt.NDArray[np.float32], attends: bool, in_place: bool = True) -> GraphSpec:
    graph = _Graph()
    old = graph.op("Gather", "hash_pool", "read_slots")  # (B, 1)
    total = graph.op(
        "Add", graph.op("Mul", old, graph.const(7)), graph.op("Mul", graph.column("tokens"), graph.const(13))
    )
    if attends:
        memory = graph.op("Gather", "memory_pool", "source_rows")  # (B, S, 2)
        real = graph.op("Unsqueeze", graph.mask("source_lengths", "source_rows"), graph.const([2], np.int64))
        summed = graph.op("ReduceSum", graph.op("Mul", memory, real), graph.const([1], np.int64), keepdims=0)  # (B, 2)
        first = graph.op("Gather", summed, graph.const([0], np.int64), axis=1)  # (B, 1)
        total = graph.op("Add", total, graph.op("Mul", first, graph.const(3)))
    new = graph.op("Mod", graph.op("Add", total, graph.const(1)), graph.const(MODULUS), fmod=1)
    graph.scatter("hash_pool", "write_slots", new, "hash_pool_out")
    state = graph.op("Squeeze", graph.op("Cast", new, to=TensorProto.INT64), graph.const([1], np.int64))
    graph.op("Gather", graph.const(table), state, outputs=["log_probs"])  # (B, V)
    graph.op("TopK", "log_probs", graph.const([TOP_K], np.int64), outputs=["top_log_probs", "top_tokens"])
    inputs = [_ints("tokens", "B"), _ints("read_slots", "B"), _ints("write_slots", "B")]
    if attends:
        inputs += [_ints("source_rows", "B", "S"), _ints("source_lengths", "B")]
    outputs = [_floats("top_log_probs", "B", TOP_K), TensorSpec(name="top_tokens", dtype="int64", shape=("B", TOP_K))]
    if not attends:
        outputs.insert(0, _floats("log_probs", "B", table.shape[1]))
    pools = [_POOL, _MEMORY_POOL] if attends else [_POOL]
    return graph.save(folder / "step.onnx", inputs + pools, [*outputs, _POOL_OUT])


def _encode(folder: Path) -> GraphSpec:
    graph = _Graph()
    values = graph.op("Cast", "source", to=TensorProto.FLOAT)  # (B, S)
    real = graph.op("Mul", values, graph.mask("lengths", "source"))
    total = graph.op("ReduceSum", real, graph.const([1], np.int64), keepdims=1)  # (B, 1)
    state = graph.op("Mod", total, graph.const(MODULUS), fmod=1)
    graph.scatter("hash_pool", "write_slots", state, "hash_pool_out")
    wide = graph.op("Unsqueeze", values, graph.const([2], np.int64))
    graph.scatter("memory_pool", "source_rows", graph.op("Concat", wide, wide, axis=2), "memory_pool_out")
    inputs = [
        _ints("source", "B", "S"),
        _ints("lengths", "B"),
        _ints("source_rows", "B", "S"),
        _ints("write_slots", "B"),
    ]
    return graph.save(folder / "encode.onnx", [*inputs, _POOL, _MEMORY_POOL], [_POOL_OUT, _MEMORY_POOL_OUT])


def _sequence(folder: Path, table: npt.NDArray[np.float32]) -> GraphSpec:
    """Emissions (B, T, V) of position t: the table's row of (initial + words[0..t] + characters at t) mod MODULUS."""
    graph = _Graph()
    real = graph.mask("lengths", "words")  # (B, T)
    spelled = graph.op("ReduceSum", "characters", graph.const([2], np.int64), keepdims=0)  # (B, T)
    values = graph.op("Mul", graph.op("Cast", "words", to=TensorProto.FLOAT), real)
    sums = graph.op("Add", graph.op("CumSum", values, graph.const(1, np.int64)), "initial_hash")
    here = graph.op("Add", sums, graph.op("Cast", spelled, to=TensorProto.FLOAT))
    state = graph.op("Cast", graph.op("Mod", here, graph.const(MODULUS), fmod=1), to=TensorProto.INT64)
    graph.op("Gather", graph.const(table), state, outputs=["emissions"])
    total = graph.op("ReduceSum", values, graph.const([1], np.int64), keepdims=1)
    graph.op("Add", total, "initial_hash", outputs=["final_hash"])
    inputs = [_ints("words", "B", "T"), _ints("characters", "B", "T", "C"), _ints("lengths", "B")]
    return graph.save(
        folder / "sequence.onnx",
        [*inputs, _floats("initial_hash", "B", 1)],
        [_floats("emissions", "B", "T", table.shape[1]), _floats("final_hash", "B", 1)],
    )


def _manifest(
    task: Task,
    graphs: dict[GraphKind, GraphSpec],
    states: tuple[StateSpec, ...],
    memories: tuple[MemorySpec, ...] = (),
    roles: Sequence[str] = ("tokens",),
) -> Manifest:
    return Manifest(
        name="tiny",
        version=1,
        task=task,
        precision="fp32",
        graphs=graphs,
        states=states,
        memories=memories,
        tokenizers={role: TokenizerSpec(kind="none", vocabulary=f"{role}.json") for role in roles},
        decoding=DecodingDefaults(max_beam_size=3, top_k=TOP_K),
        created="2025-01-01T00:00:00Z",
        files={},
    )


def write_language_model(folder: Path, table: npt.NDArray[np.float32]) -> Manifest:
    return _manifest("language_model", {"step": _step(folder, table, attends=False)}, (STATE,))


def write_encoder_decoder(folder: Path, table: npt.NDArray[np.float32]) -> Manifest:
    graphs: dict[GraphKind, GraphSpec] = {"encode": _encode(folder), "step": _step(folder, table, attends=True)}
    return _manifest("encoder_decoder", graphs, (STATE,), (MEMORY,), ("source", "target"))


def write_tagger(folder: Path, table: npt.NDArray[np.float32]) -> Manifest:
    state = StateSpec(
        name="hash", dtype="float32", shape=(1,), sequence_input="initial_hash", sequence_output="final_hash"
    )
    graphs: dict[GraphKind, GraphSpec] = {"sequence": _sequence(folder, table)}
    return _manifest("tagger", graphs, (state,), roles=("words", "characters", "tags"))
