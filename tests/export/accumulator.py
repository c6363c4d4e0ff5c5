"""A language model that needs no training: its one state is the running sum of the embeddings it has read.

The graphs are written by hand here and the oracle is NumPy, so that the checks of an export can be tested without
either half of what they compare in real life.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.backend import Array, Feeds, Floats
from export.bundle import hash_files, write_manifest
from export.manifest import GraphKind, GraphSpec, Manifest, StateSpec, TensorSpec, TokenizerSpec
from models.symbols import BOS, EOS, PAD, UNK
from models.vocabulary import Vocabulary

TOKENS = (PAD, UNK, BOS, EOS, *"abcdefgh")
V, K, H = len(TOKENS), 4, 3
EMBEDDING = np.random.default_rng(7).uniform(-0.3, 0.3, (V, H)).astype(np.float32)
OUTPUT = np.random.default_rng(8).uniform(-1, 1, (H, V)).astype(np.float32)
NEVER = np.where(np.isin(np.arange(V), (0, 2)), -1e9, 0).astype(np.float32)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
    return np.where(NEVER < 0, np.float32(-1e9), result)


class NumpyAccumulator:
    """The oracle, as a backend."""

    def __init__(self) -> None:
        self.arrays: dict[str, Floats] = {}

    @property
    def pools(self) -> Mapping[str, Array]:
        return self.arrays

    def allocate(self, num_slots: int, num_rows: int) -> None:
        self.arrays = {"hidden_0": np.zeros((num_slots, H), np.float32)}

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        if kind == "step":
            new = self.arrays["hidden_0"][feeds["read_slots"]] + EMBEDDING[feeds["tokens"]]
            self.arrays["hidden_0"][feeds["write_slots"]] = new
            return {"log_probs": log_softmax(np.asarray(new @ OUTPUT, np.float32))}
        total, scores = feeds["initial_hidden_0"].copy(), np.zeros(feeds["tokens"].shape, np.float32)
        for row, length in enumerate(feeds["lengths"]):
            for step in range(length):
                total[row] += EMBEDDING[feeds["tokens"][row, step]]
                scores[row, step] = log_softmax(total[row] @ OUTPUT)[feeds["targets"][row, step]]
        return {"target_log_probs": scores, "final_hidden_0": total}


def step_graph(embedding: Floats = EMBEDDING) -> onnx.ModelProto:
    """One step over the pool; the best K of the log-probabilities."""
    nodes = [
        helper.make_node("Gather", ["hidden_0_pool", "read_slots"], ["old"], axis=0),
        helper.make_node("Gather", ["embedding", "tokens"], ["embedded"], axis=0),
        helper.make_node("Add", ["old", "embedded"], ["new"]),
        *_log_probs("new", "log_probs"),
        helper.make_node("TopK", ["log_probs", "k"], ["top_log_probs", "top_tokens"], axis=-1),
        helper.make_node("Unsqueeze", ["write_slots", "last"], ["where"]),
        helper.make_node("ScatterND", ["hidden_0_pool", "where", "new"], ["hidden_0_pool_out"]),
    ]
    constants = {"embedding": embedding, "k": np.array([K]), "last": np.array([-1])}
    return _model(nodes, STEP, constants)


def sequence_graph(embedding: Floats = EMBEDDING) -> onnx.ModelProto:
    """Running sums by CumSum, nothing added past the lengths."""
    nodes = [
        helper.make_node("Gather", ["embedding", "tokens"], ["embedded"], axis=0),
        helper.make_node("Shape", ["tokens"], ["num_steps"], start=1, end=2),
        helper.make_node("Squeeze", ["num_steps"], ["end"]),
        helper.make_node("Range", ["zero", "end", "one"], ["steps"]),
        helper.make_node("Unsqueeze", ["lengths", "last"], ["ends"]),
        helper.make_node("Less", ["steps", "ends"], ["real"]),
        helper.make_node("Unsqueeze", ["real", "last"], ["mask"]),
        helper.make_node("Where", ["mask", "embedded", "nothing"], ["kept"]),
        helper.make_node("CumSum", ["kept", "axis"], ["summed"]),
        helper.make_node("Unsqueeze", ["initial_hidden_0", "axis"], ["start"]),
        helper.make_node("Add", ["start", "summed"], ["totals"]),
        *_log_probs("totals", "log_probs"),
        helper.make_node("Unsqueeze", ["targets", "last"], ["where"]),
        helper.make_node("GatherElements", ["log_probs", "where"], ["found"], axis=-1),
        helper.make_node("Squeeze", ["found", "last"], ["target_log_probs"]),
        helper.make_node("Gather", ["totals", "before_last"], ["final_hidden_0"], axis=1),
    ]
    constants = {
        "embedding": embedding,
        "zero": np.array(0),
        "one": np.array(1),
        "last": np.array([-1]),
        "axis": np.array([1]),
        "nothing": np.zeros(1, np.float32),
        "before_last": np.array(-1),
    }
    return _model(nodes, SEQUENCE, constants)


def chunk_graph(embedding: Floats = EMBEDDING) -> onnx.ModelProto:
    """Several steps over the pool: a scan, so that sums are those of the steps."""
    names = ("old", "embedded", "new", "total")
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", H]) for name in names}
    body = helper.make_graph(
        [helper.make_node("Add", ["old", "embedded"], ["new"]), helper.make_node("Identity", ["new"], ["total"])],
        "body",
        [infos["old"], infos["embedded"]],
        [infos["new"], infos["total"]],
    )
    nodes = [
        helper.make_node("Gather", ["hidden_0_pool", "read_slots"], ["start"], axis=0),
        helper.make_node("Gather", ["embedding", "tokens"], ["inputs"], axis=0),
        helper.make_node(
            "Scan",
            ["start", "inputs"],
            ["end", "totals"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        ),
        *_log_probs("totals", "log_probs"),
        helper.make_node("TopK", ["log_probs", "k"], ["top_log_probs", "top_tokens"], axis=-1),
        helper.make_node("Unsqueeze", ["write_slots", "last"], ["where"]),
        helper.make_node("ScatterND", ["hidden_0_pool", "where", "end"], ["hidden_0_pool_out"]),
    ]
    return _model(nodes, CHUNK, {"embedding": embedding, "k": np.array([K]), "last": np.array([-1])})


STEP = GraphSpec(
    file="step.onnx",
    inputs=(
        TensorSpec(name="tokens", dtype="int64", shape=("B",)),
        TensorSpec(name="read_slots", dtype="int64", shape=("B",)),
        TensorSpec(name="write_slots", dtype="int64", shape=("B",)),
        TensorSpec(name="hidden_0_pool", dtype="float32", shape=("N", H)),
    ),
    outputs=(
        TensorSpec(name="log_probs", dtype="float32", shape=("B", V)),
        TensorSpec(name="hidden_0_pool_out", dtype="float32", shape=("N", H)),
        TensorSpec(name="top_log_probs", dtype="float32", shape=("B", K)),
        TensorSpec(name="top_tokens", dtype="int64", shape=("B", K)),
    ),
)
CHUNK = GraphSpec(
    file="chunk.onnx",
    inputs=(TensorSpec(name="tokens", dtype="int64", shape=("B", "T")), *STEP.inputs[1:]),
    outputs=(
        STEP.outputs[1],
        TensorSpec(name="top_log_probs", dtype="float32", shape=("B", "T", K)),
        TensorSpec(name="top_tokens", dtype="int64", shape=("B", "T", K)),
    ),
)
SEQUENCE = GraphSpec(
    file="sequence.onnx",
    inputs=(
        TensorSpec(name="tokens", dtype="int64", shape=("B", "T")),
        TensorSpec(name="targets", dtype="int64", shape=("B", "T")),
        TensorSpec(name="lengths", dtype="int64", shape=("B",)),
        TensorSpec(name="initial_hidden_0", dtype="float32", shape=("B", H)),
    ),
    outputs=(
        TensorSpec(name="target_log_probs", dtype="float32", shape=("B", "T")),
        TensorSpec(name="final_hidden_0", dtype="float32", shape=("B", H)),
    ),
)


def write_bundle(
    repository: Path, step: onnx.ModelProto, sequence: onnx.ModelProto, chunk: onnx.ModelProto | None = None
) -> tuple[Path, Manifest]:
    """Write the bundle `sums`, version 1, with the given graphs."""
    folder = repository / "sums" / "1"
    folder.mkdir(parents=True)
    onnx.save(step, folder / STEP.file)
    onnx.save(sequence, folder / SEQUENCE.file)
    graphs: dict[GraphKind, GraphSpec] = {"step": STEP, "sequence": SEQUENCE}
    if chunk is not None:
        onnx.save(chunk, folder / CHUNK.file)
        graphs["chunk"] = CHUNK
    Vocabulary(TOKENS, 4).save(folder / "tokens.json")
    state = StateSpec(
        name="hidden_0",
        dtype="float32",
        shape=(H,),
        pool_input="hidden_0_pool",
        pool_output="hidden_0_pool_out",
        sequence_input="initial_hidden_0",
        sequence_output="final_hidden_0",
    )
    manifest = Manifest(
        name="sums",
        version=1,
        task="language_model",
        precision="fp32",
        graphs=graphs,
        states=(state,),
        tokenizers={"tokens": TokenizerSpec(kind="characters", vocabulary="tokens.json")},
        created="2026-01-01T00:00:00+00:00",
        files=hash_files(folder),
    )
    write_manifest(folder, manifest)
    return folder, manifest


def _log_probs(totals: str, result: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", [totals, "output"], [f"{result}_logits"]),
        helper.make_node("LogSoftmax", [f"{result}_logits"], [f"{result}_all"], axis=-1),
        helper.make_node("Where", ["never", "out", f"{result}_all"], [result]),
    ]


def _model(nodes: list[onnx.NodeProto], spec: GraphSpec, constants: Mapping[str, Array]) -> onnx.ModelProto:
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

    def infos(tensors: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(tensor.name, types[tensor.dtype], tensor.shape) for tensor in tensors]

    weights = {"output": OUTPUT, "never": NEVER < 0, "out": np.array(-1e9, np.float32), **constants}
    used = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items() if name in used]
    graph = helper.make_graph(nodes, spec.file, infos(spec.inputs), infos(spec.outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
