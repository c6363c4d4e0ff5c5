"""The static int8 scheme: exact where it is integer, near fp32 elsewhere, nobody else's business ever."""

import numpy as np
import pytest
import torch

from export.emit.builder import GraphBuilder
from export.emit.emit import emit
from export.emit.linear import Activation, emit_concat, emit_embedding, emit_linear, quantize_weight
from export.emit.recurrent import emit_stack
from models.config import Cell, EncoderDecoderConfig, LanguageModelConfig, TaggerConfig
from models.recurrent import RecurrentStack
from tests.export.emit.models import tiny
from tests.export.emit.pools import make_pools, memory_rows
from tests.export.emit.runtime import run, session

NEAR = 0.1  # of log-probabilities and emissions of tiny models; a wrong gate or scale is off by more


def test_weights_are_rounded_to_the_nearest_level_of_their_channel() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    weight[3] *= 100
    weight[4] = 0
    levels, scales = quantize_weight(weight)
    assert levels.dtype == np.int8
    assert np.abs(levels).max(axis=1).tolist() == [127, 127, 127, 127, 0, 127]
    assert (np.abs(levels * scales[:, None] - weight) <= scales[:, None] * 0.5001).all()


def test_a_linear_map_is_the_integer_product() -> None:
    """Inputs on the grid of their scale make the oracle exact: nothing but the weights is rounded."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((7, 9)).astype(np.float32)
    bias = rng.standard_normal(7).astype(np.float32)
    graph = GraphBuilder("linear", "int8")
    inputs = [
        Activation(graph.input("a", "float32", ("B", 4)), 4),
        Activation(graph.input("b", "float32", ("B", 3)), 3, bound=2.5),
        Activation(graph.input("c", "float32", ("B", 2)), 2),
    ]
    graph.output(emit_linear(graph, "linear", inputs, weight, bias), "y", "float32", ("B", 7))
    levels = [rng.integers(-127, 128, (5, width)) for width in (4, 3, 2)]
    a, b, c = (level * bound / 127 for level, bound in zip(levels, (1.0, 2.5, 1.0), strict=True))
    values = {"a": a, "b": b, "c": c}
    got = run(session(graph.build()), {name: value.astype(np.float32) for name, value in values.items()})["y"]
    expected = np.zeros((5, 7)) + bias
    for columns, value in (([0, 1, 2, 3, 7, 8], np.concatenate([a, c], axis=1)), ([4, 5, 6], b)):
        block, scales = quantize_weight(weight[:, columns])
        expected += value @ (block * scales[:, None].astype(np.float64)).T
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)


def test_an_embedding_keeps_its_table_in_eight_bits() -> None:
    table = np.random.default_rng(2).standard_normal((11, 6)).astype(np.float32) * 3
    graph = GraphBuilder("embedding", "int8")
    embedded = emit_embedding(graph, "table", table, graph.input("ids", "int64", ("B",)))
    identity = np.eye(6, dtype=np.float32)
    graph.output(emit_linear(graph, "out", [embedded], identity, None), "y", "float32", ("B", 6))
    model = graph.build()
    assert sum(len(i.raw_data) for i in model.graph.initializer if i.name == "table.weight") == 11 * 6
    got = run(session(model), {"ids": np.arange(11)})["y"]
    assert np.abs(got - table).max() <= embedded.bound / 127 * 0.5001
    assert embedded.bound == pytest.approx(np.abs(table).max())


def test_inputs_of_the_wrong_width_are_refused() -> None:
    graph = GraphBuilder("linear", "int8")
    value = Activation(graph.input("x", "float32", ("B", 4)), 4)
    with pytest.raises(ValueError, match="expected inputs 5 wide, got 4"):
        emit_linear(graph, "linear", [value], np.zeros((2, 5), np.float32), None)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_transduction_is_near_fp32(cell: Cell) -> None:
    config = EncoderDecoderConfig(
        cell=cell, source_dim=16, target_dim=16, hidden=24, attention_dim=12, encoder_layers=2, decoder_layers=2
    )
    model = tiny(config, gain=1.5)
    lengths = np.array([6, 1, 4])
    rng = np.random.default_rng(0)
    source, tokens = rng.integers(4, 25, (3, 6)), rng.integers(4, 33, (5, 3))
    written, read = memory_rows(lengths, 6)
    slots = np.array([2, 3, 4])
    results = []
    for precision in ("fp32", "int8"):
        emitted = emit(model, precision, top_k=33)
        pools = make_pools(emitted, num_slots=5, num_rows=20)
        inputs = {"source": source, "lengths": lengths, "source_rows": written, "write_slots": slots}
        pools.run(session(emitted.graphs["encode"]), inputs)
        step, outputs = session(emitted.graphs["step"]), []
        for column in tokens:
            fed = {"tokens": column, "read_slots": slots, "write_slots": slots}
            got = pools.run(step, fed | {"source_rows": read, "source_lengths": lengths})
            order = np.argsort(got["top_tokens"], axis=1)
            outputs.append(np.take_along_axis(got["top_log_probs"], order, 1))
        results.append(np.stack(outputs))
    assert 0 < np.abs(results[0] - results[1]).max() < NEAR


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_scores_of_texts_are_near_fp32_and_step_by_step_too(cell: Cell) -> None:
    model = tiny(LanguageModelConfig(cell=cell, dim=16, hidden=24, layers=2), gain=1.5)
    rng = np.random.default_rng(0)
    tokens, targets, lengths = rng.integers(0, 40, (3, 7)), rng.integers(3, 40, (3, 7)), np.array([7, 1, 4])
    scores, states = [], []
    for precision in ("fp32", "int8"):
        emitted = emit(model, precision)
        zeros = {str(s.sequence_input): np.zeros((3, 24), np.float32) for s in emitted.states}
        got = run(
            session(emitted.graphs["sequence"]), {"tokens": tokens, "targets": targets, "lengths": lengths} | zeros
        )
        scores.append(np.concatenate([got["target_log_probs"][row, :length] for row, length in enumerate(lengths)]))
        states.append(np.stack([got[str(s.sequence_output)] for s in emitted.states]))
    assert 0 < np.abs(scores[0] - scores[1]).max() < NEAR
    assert 0 < np.abs(states[0] - states[1]).max() < NEAR
    step, pools = session(emitted.graphs["step"]), make_pools(emitted, num_slots=3)
    for t in range(7):
        slots = np.array([2 if t else 0])
        stepped = pools.run(step, {"tokens": tokens[:1, t], "read_slots": slots, "write_slots": np.array([2])})
        assert abs(stepped["log_probs"][0, targets[0, t]] - scores[0][t]) < NEAR


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_emissions_are_near_fp32(cell: Cell) -> None:
    config = TaggerConfig(cell=cell, word_dim=16, character_dim=8, character_hidden=8, hidden=24, layers=2)
    model = tiny(config, gain=1.5)
    rng = np.random.default_rng(0)
    inputs = {
        "words": rng.integers(0, 30, (3, 6)),
        "characters": rng.integers(0, 20, (3, 6, 5)),
        "word_lengths": rng.integers(1, 6, (3, 6)),
        "lengths": np.array([6, 1, 3]),
    }
    results = []
    for precision in ("fp32", "int8"):
        emitted = emit(model, precision)
        zeros = {str(s.sequence_input): np.zeros((3, 24), np.float32) for s in emitted.states}
        got = run(session(emitted.graphs["sequence"]), inputs | zeros)["emissions"]
        results.append(np.concatenate([got[row, :length] for row, length in enumerate(inputs["lengths"])]))
    assert 0 < np.abs(results[0] - results[1]).max() < NEAR


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_an_outlier_in_the_batch_changes_nobody_else(cell: Cell) -> None:
    emitted = emit(tiny(LanguageModelConfig(cell=cell, dim=9, hidden=17)), "int8")
    step = session(emitted.graphs["step"])
    slots = np.arange(2, 10)
    inputs = {"tokens": np.arange(8) + 4, "read_slots": slots, "write_slots": slots}
    results = []
    for outlier in (0.5, 1000.0):
        pools = make_pools(emitted, num_slots=10)
        for value in pools.values.values():
            value.numpy()[9] = outlier
        got = pools.run(step, inputs)
        results.append([got["log_probs"][:7]] + [pools.numpy(name)[:9].copy() for name in pools.values])
    for calm, wild in zip(*results, strict=True):
        assert np.array_equal(calm, wild)


@pytest.mark.parametrize("as_float", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_stack_is_near_torch_up_to_the_ends(cell: Cell, as_float: bool) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(cell, 8, 12, layers=2, bidirectional=True).eval().requires_grad_(False)
    graph = GraphBuilder("stack", "int8")
    inputs = Activation(graph.input("inputs", "float32", ("T", "B", 8)), 8)
    lengths_input = graph.input("lengths", "int64", ("B",))
    start = [graph.input(f"initial_{i}", "float32", ("B", 12)) for i in range(stack.num_states)]
    outputs, final = emit_stack(graph, "stack", stack, [inputs], lengths_input, start, as_float)
    assert [(one.width, one.quantized) for one in outputs] == [(12, not as_float)] * 2
    # What reads the outputs: an affine map that changes nothing.
    read = graph.op("Identity", emit_concat(graph, outputs)) if as_float else None
    read = read or emit_linear(graph, "read", outputs, np.eye(24, dtype=np.float32), None)
    graph.output(read, "outputs", "float32", ("T", "B", 24))
    for i, state in enumerate(final):
        graph.output(state, f"final_{i}", "float32", ("B", 12))
    values, lengths = torch.rand(3, 6, 8) * 2 - 1, torch.tensor([6, 1, 4])
    states = tuple(torch.rand(3, 12) * 2 - 1 for _ in start)
    expected, last = stack(values, lengths, states)
    initial = {f"initial_{i}": state.numpy() for i, state in enumerate(states)}
    fed = {"inputs": values.transpose(0, 1).contiguous().numpy(), "lengths": lengths.numpy()}
    got = run(session(graph.build()), fed | initial)
    by_row = got["outputs"].transpose(1, 0, 2)
    for row, length in enumerate(lengths.tolist()):
        np.testing.assert_allclose(by_row[row, :length], expected[row, :length].numpy(), atol=NEAR, rtol=0)
    for i, state in enumerate(last):
        np.testing.assert_allclose(got[f"final_{i}"], state.numpy(), atol=NEAR, rtol=0)
