"""Steps without recurrent nodes, and with a folded embedding, against those with nodes."""

from typing import Any

import numpy as np
import onnx
import pytest

from export.emit.builder import GraphBuilder
from export.emit.emit import emit
from export.emit.emitted import EmittedModel
from export.emit.linear import Activation
from export.emit.primitive import variants_of
from export.emit.recurrent import emit_step
from export.emit.weights import CellWeights
from export.manifest import Precision, TensorSpec, Variant
from models.config import Cell, EncoderDecoderConfig, LanguageModelConfig, ModelConfig, TaggerConfig
from tests.export.emit.models import tiny
from tests.export.emit.pools import make_pools
from tests.export.emit.runtime import Array, Pooled, run, session
from tests.export.graph.refused import refused_by_cuda

CELLS: list[Cell] = ["lstm", "gru"]
VARIANTS: list[Variant] = ["primitive", "folded"]
LIMIT = 1e-5
NUM_SLOTS, NUM_MEMORY_ROWS = 40, 60
IDS = 20  # fewer than any vocabulary has


def _configs(cell: Cell) -> list[ModelConfig]:
    return [
        LanguageModelConfig(cell=cell, dim=7, hidden=13, layers=1),
        LanguageModelConfig(cell=cell, dim=16, hidden=33, layers=3),
        LanguageModelConfig(cell=cell, dim=12, hidden=12, layers=2, tied=True),
        TaggerConfig(cell=cell, word_dim=9, character_hidden=5, hidden=19, layers=2, bidirectional=False),
        EncoderDecoderConfig(cell=cell, target_dim=6, hidden=14, attention_dim=9, decoder_layers=2),
        EncoderDecoderConfig(cell=cell, target_dim=6, hidden=14, attention="multiplicative"),
    ]


CONFIGS = [config for cell in CELLS for config in _configs(cell)]


def _feeds(inputs: tuple[TensorSpec, ...], rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Random inputs of a step for every input but pools; no two rows write one slot."""
    sizes = {"B": rows, "C": 6, "S": 5}
    draws = {"word_lengths": (1, 7), "source_lengths": (1, 6), "source_rows": (2, NUM_MEMORY_ROWS)}
    feeds = {}
    for spec in inputs:
        if spec.dtype == "int64":
            low, high = draws.get(spec.name, (0, IDS))
            feeds[spec.name] = rng.integers(low, high, [sizes[str(size)] for size in spec.shape])
    feeds["read_slots"], feeds["write_slots"] = (rng.permutation(np.arange(2, NUM_SLOTS))[:rows] for _ in range(2))
    return feeds


def _filled(emitted: EmittedModel, seed: int) -> Pooled:
    rng = np.random.default_rng(seed)
    pools = make_pools(emitted, NUM_SLOTS, NUM_MEMORY_ROWS)
    for name in pools.values:
        pools.numpy(name)[2:] = rng.uniform(-1, 1, pools.numpy(name)[2:].shape)
    return pools


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_steps_as_the_graph_with_nodes_and_rows_do_not_meet(config: ModelConfig, variant: Variant) -> None:
    emitted = emit(tiny(config), "fp32", top_k=4, for_cuda=True)
    inputs = emitted.specs["step"].inputs
    nodes, other = session(emitted.graphs["step"]), session(emitted.variants[variant]["step"])
    rng = np.random.default_rng(1)
    pools, of_variant, alone = (_filled(emitted, seed=2) for _ in range(3))
    for rows in (1, 2, 7, 16, 33):
        feeds = _feeds(inputs, rows, rng)
        for name in alone.values:
            alone.numpy(name)[...] = of_variant.numpy(name)
        before = {name: alone.numpy(name).copy() for name in alone.values}
        want, got = pools.run(nodes, feeds), of_variant.run(other, feeds)
        assert got.keys() == want.keys()
        np.testing.assert_allclose(got["top_log_probs"], want["top_log_probs"], atol=LIMIT, rtol=0)
        for name in pools.values:
            np.testing.assert_allclose(of_variant.numpy(name), pools.numpy(name), atol=LIMIT, rtol=0)
        for row in range(rows):
            one = alone.run(other, {name: array[row : row + 1] for name, array in feeds.items()})
            assert one["top_log_probs"].tobytes() == got["top_log_probs"][row : row + 1].tobytes(), (rows, row)
            for name in alone.values:
                slot = feeds["write_slots"][row]
                assert alone.numpy(name)[slot].tobytes() == of_variant.numpy(name)[slot].tobytes(), (rows, row)
                alone.numpy(name)[...] = before[name]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_variants_have_the_signature_of_their_graph_and_no_recurrent_node(config: ModelConfig) -> None:
    emitted = emit(tiny(config), "fp32", top_k=4, for_cuda=True)
    kinds = {"step"} if config.family == "encoder_decoder" else {"step", "chunk"}
    assert {variant: set(graphs) for variant, graphs in emitted.variants.items()} == dict.fromkeys(VARIANTS, kinds)
    for variant, graphs in emitted.variants.items():
        for kind, model in graphs.items():
            assert emitted.specs[kind].variants[variant] == f"{kind}.{variant}.onnx"
            assert _signature(model) == _signature(emitted.graphs[kind])
            recurrent = [node for node in model.graph.node if node.op_type in ("LSTM", "GRU", "RNN")]
            assert len(recurrent) == (config.family == "tagger"), "words are spelt by a node"


def _signature(model: onnx.ModelProto) -> list[list[bytes]]:
    return [sorted(value.SerializeToString() for value in values) for values in (model.graph.input, model.graph.output)]


def test_a_folded_step_multiplies_the_hidden_state_alone_and_holds_one_table() -> None:
    config = LanguageModelConfig(dim=7, hidden=13, layers=1)
    graph = emit(tiny(config), "fp32", for_cuda=True).variants["folded"]["step"].graph
    sizes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    assert sizes["stack.0.folded"] == (40, 4 * 13) and sizes["stack.0.joined.weight"] == (13, 4 * 13)
    assert not [name for name in sizes if "embedding" in name]


@pytest.mark.parametrize(("words", "variants"), [(32768, ("primitive", "folded")), (32769, ("primitive",))])
def test_a_table_over_256_mib_is_not_folded(words: int, variants: tuple[Variant, ...]) -> None:
    weight, bias = np.zeros((2048, 3), np.float32), np.zeros(2048, np.float32)
    assert variants_of(CellWeights("lstm", weight, np.zeros((2048, 512), np.float32), bias, bias), words) == variants


def test_there_are_variants_only_where_they_are_asked_for_and_none_in_int8() -> None:
    model = tiny(LanguageModelConfig(dim=4, hidden=4))
    plain = emit(model, "fp32")
    assert plain.variants == {} and not any(spec.variants for spec in plain.specs.values())
    with pytest.raises(ValueError, match="precision: expected fp32 or fp16 for cuda, got int8"):
        emit(model, "int8", for_cuda=True)


def test_a_gru_that_resets_before_its_product_steps_without_a_node_that_cuda_refuses() -> None:
    rng = np.random.default_rng(0)
    weight_ih, weight_hh = (rng.standard_normal((18, width)).astype(np.float32) for width in (5, 6))
    bias_ih, bias_hh = rng.standard_normal((2, 18)).astype(np.float32)
    weights = CellWeights("gru", weight_ih, weight_hh, bias_ih, bias_hh, reset_after=False)
    models = []
    for cells in ("node", "primitive"):
        graph = GraphBuilder("step", cells=cells)
        inputs = Activation(graph.input("inputs", "float32", ("B", 5)), 5)
        (new,) = emit_step(graph, "gru", weights, [inputs], [graph.input("old", "float32", ("B", 6))])
        graph.output(new, "new", "float32", ("B", 6))
        models.append(graph.build())
    feeds = {name: rng.uniform(-1, 1, (4, width)).astype(np.float32) for name, width in (("inputs", 5), ("old", 6))}
    want, got = (run(session(model), feeds)["new"] for model in models)
    np.testing.assert_allclose(got, want, atol=LIMIT, rtol=0)
    assert [len(refused_by_cuda(model)) for model in models] == [1, 0]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("config", [*CONFIGS, TaggerConfig(cell="gru", layers=2), TaggerConfig(crf=True)], ids=str)
def test_no_graph_of_a_model_has_a_recurrent_node_that_cuda_refuses(config: ModelConfig, precision: Precision) -> None:
    emitted = emit(tiny(config), precision, for_cuda=True)
    graphs = [*emitted.graphs.values(), *(one for graphs in emitted.variants.values() for one in graphs.values())]
    assert [refused_by_cuda(graph) for graph in graphs] == [[]] * len(graphs)


@pytest.mark.parametrize(
    ("op_type", "attributes", "num_inputs", "reason"),
    [
        ("LSTM", {}, 6, None),
        ("LSTM", {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Tanh"] * 2}, 6, None),
        (
            "LSTM",
            {"activations": ["Sigmoid", "Relu", "Tanh"]},
            6,
            "activations Sigmoid, Relu, Tanh; CUDA has Sigmoid, Tanh, Tanh alone",
        ),
        ("LSTM", {"activations": ["sigmoid", "tanh", "TANH"]}, 6, None),
        ("LSTM", {"activation_beta": [0.5]}, 6, "activation_beta, which CUDA has not"),
        ("LSTM", {"clip": 3.0}, 6, "clip, which CUDA has not"),
        ("LSTM", {"input_forget": 1}, 6, "input_forget=1, which CUDA has not"),
        ("LSTM", {}, 8, "peepholes, which CUDA has not"),
        ("GRU", {"linear_before_reset": 1}, 6, None),
        ("GRU", {}, 6, "linear_before_reset=0; CUDA has 1 alone"),
        ("GRU", {"linear_before_reset": -1}, 6, "linear_before_reset=0; CUDA has 1 alone"),
        ("RNN", {}, 6, None),
        ("RNN", {"activations": ["tanh"]}, 6, None),
        ("RNN", {"activation_alpha": [1.0]}, 6, "activation_alpha, which CUDA has not"),
        ("RNN", {"activations": ["Relu"]}, 6, "activations Relu; CUDA has Tanh alone"),
        ("RNN", {"activations": ["Tanh", "Sigmoid"]}, 6, "activations Tanh, Sigmoid; CUDA has Tanh alone"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_what_cuda_refuses_is_said_with_the_reason(
    op_type: str, attributes: dict[str, Any], num_inputs: int, reason: str | None, inside: bool
) -> None:
    node = onnx.helper.make_node(op_type, [f"i{i}" for i in range(num_inputs)], ["y"], name="n", **attributes)
    graph = onnx.helper.make_graph([node], "body", [], [])
    if inside:
        graph = onnx.helper.make_graph([onnx.helper.make_node("Loop", ["", ""], ["z"], body=graph)], "outer", [], [])
    found = refused_by_cuda(onnx.helper.make_model(graph))
    assert [line.startswith(f"{op_type} n: {reason}") for line in found] == ([] if reason is None else [True])
