"""Recurrent layers on ONNX Runtime against torch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from export.emit.builder import GraphBuilder
from export.emit.linear import Activation
from export.emit.recurrent import emit_stack, emit_step
from export.emit.weights import CellWeights, reorder_gates
from export.manifest import Precision
from models.config import Cell
from models.recurrent import RecurrentStack
from tests.export.emit.runtime import Array, run, session

LIMIT = 1e-5
INPUT, HIDDEN = 5, 6
CELLS: list[Cell] = ["lstm", "gru"]


def _stack(cell: Cell, layers: int, bidirectional: bool = False) -> RecurrentStack:
    torch.manual_seed(layers)
    stack = RecurrentStack(cell, INPUT, HIDDEN, layers, bidirectional).eval().requires_grad_(False)
    for parameter in stack.parameters():
        parameter.mul_(1.5).add_(0.2 * torch.randn_like(parameter))
    return stack


def _sequence_graph(stack: RecurrentStack, with_states: bool = True) -> onnx.ModelProto:
    graph = GraphBuilder("stack")
    inputs = graph.op("Transpose", graph.input("inputs", "float32", ("B", "T", INPUT)), perm=[1, 0, 2])
    lengths = graph.input("lengths", "int64", ("B",))
    states = [graph.input(f"initial_{i}", "float32", ("B", HIDDEN)) for i in range(stack.num_states)]
    outputs, final = emit_stack(
        graph, "stack", stack, [Activation(inputs, INPUT)], lengths, states if with_states else None
    )
    (value,) = (one.value for one in outputs)
    graph.output(graph.op("Transpose", value, perm=[1, 0, 2]), "outputs", "float32", ("B", "T", stack.output_size))
    for i, state in enumerate(final):
        graph.output(state, f"final_{i}", "float32", ("B", HIDDEN))
    return graph.build()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_whole_sequences_match_torch(cell: Cell, layers: int, bidirectional: bool) -> None:
    stack = _stack(cell, layers, bidirectional)
    ort = session(_sequence_graph(stack))
    rng = np.random.default_rng(layers)
    for num_steps in (1, 7, 33):
        batch_size = int(rng.integers(1, 9))
        lengths = torch.from_numpy(rng.integers(1, num_steps + 1, batch_size))
        lengths[rng.integers(batch_size)] = 1
        inputs = torch.randn(batch_size, num_steps, INPUT)
        states = tuple(torch.randn(batch_size, HIDDEN) for _ in range(stack.num_states))
        outputs, final = stack(inputs, lengths, states)
        got = run(
            ort,
            {"inputs": inputs.numpy(), "lengths": lengths.numpy()}
            | {f"initial_{i}": state.numpy() for i, state in enumerate(states)},
        )
        np.testing.assert_allclose(got["outputs"], outputs.numpy(), atol=LIMIT, rtol=0)
        for i, state in enumerate(final):
            np.testing.assert_allclose(got[f"final_{i}"], state.numpy(), atol=LIMIT, rtol=0)


def test_states_left_out_are_zeros() -> None:
    stack = _stack("lstm", 2, bidirectional=True)
    inputs, lengths = torch.randn(3, 4, INPUT), torch.tensor([4, 1, 2])
    unused = {f"initial_{i}": np.ones((3, HIDDEN), np.float32) for i in range(stack.num_states)}
    got = run(
        session(_sequence_graph(stack, with_states=False)),
        {"inputs": inputs.numpy(), "lengths": lengths.numpy()} | unused,
    )
    np.testing.assert_allclose(got["outputs"], stack(inputs, lengths)[0].numpy(), atol=LIMIT, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_five_carried_steps_match_torch(cell: Cell, layers: int) -> None:
    stack = _stack(cell, layers)
    per_layer = stack.num_states // layers
    graph = GraphBuilder("step")
    value = Activation(graph.input("inputs", "float32", ("B", INPUT)), INPUT)
    old = [graph.input(f"old_{i}", "float32", ("B", HIDDEN)) for i in range(stack.num_states)]
    new: list[str] = []
    for layer in range(layers):
        mine = old[layer * per_layer : (layer + 1) * per_layer]
        new += emit_step(graph, f"stack.{layer}", CellWeights.from_stack(stack, layer), [value], mine)
        value = Activation(new[-per_layer], HIDDEN)
    for i, state in enumerate(new):
        graph.output(state, f"new_{i}", "float32", ("B", HIDDEN))
    ort = session(graph.build())
    inputs = torch.randn(4, 5, INPUT)
    expected: tuple[Tensor, ...] = tuple(torch.randn(4, HIDDEN) for _ in range(stack.num_states))
    states: list[Array] = [state.numpy() for state in expected]
    for t in range(5):
        _, expected = stack(inputs[:, t : t + 1], None, expected)
        got = run(ort, {"inputs": inputs[:, t].numpy()} | {f"old_{i}": state for i, state in enumerate(states)})
        states = [got[f"new_{i}"] for i in range(len(states))]
        for one, want in zip(states, expected, strict=True):
            np.testing.assert_allclose(one, want.numpy(), atol=LIMIT, rtol=0)


def _gru_by_hand(weights: CellWeights, inputs: Array, hidden: Array) -> Array:
    """One step of the GRU of Cho et al. in float64; (B, I) and (B, H)."""
    w_r, w_z, w_n = np.split(weights.weight_ih.astype(np.float64), 3)
    u_r, u_z, u_n = np.split(weights.weight_hh.astype(np.float64), 3)
    b_r, b_z, b_n = np.split(weights.bias_ih + weights.bias_hh.astype(np.float64), 3)
    r = 1 / (1 + np.exp(-(inputs @ w_r.T + hidden @ u_r.T + b_r)))
    z = 1 / (1 + np.exp(-(inputs @ w_z.T + hidden @ u_z.T + b_z)))
    n = np.tanh(inputs @ w_n.T + (r * hidden) @ u_n.T + b_n)
    mixed: Array = (1 - z) * n + z * hidden
    return mixed


@pytest.mark.parametrize(("precision", "limit"), [("fp32", LIMIT), ("int8", 0.02)])
def test_a_gru_that_resets_before_its_product(precision: Precision, limit: float) -> None:
    rng = np.random.default_rng(0)
    weight_ih = rng.standard_normal((3 * HIDDEN, INPUT)).astype(np.float32)
    weight_hh = rng.standard_normal((3 * HIDDEN, HIDDEN)).astype(np.float32)
    bias_ih, bias_hh = rng.standard_normal((2, 3 * HIDDEN)).astype(np.float32)
    weights = CellWeights("gru", weight_ih, weight_hh, bias_ih, bias_hh, reset_after=False)
    graph = GraphBuilder("step", precision)
    inputs = Activation(graph.input("inputs", "float32", ("B", INPUT)), INPUT)
    (new,) = emit_step(graph, "gru", weights, [inputs], [graph.input("old", "float32", ("B", HIDDEN))])
    graph.output(new, "new", "float32", ("B", HIDDEN))
    ort = session(graph.build())
    hidden = rng.uniform(-1, 1, (4, HIDDEN)).astype(np.float32)
    for _ in range(5):
        values = rng.uniform(-1, 1, (4, INPUT)).astype(np.float32)
        expected = _gru_by_hand(weights, values, hidden)
        hidden = run(ort, {"inputs": values, "old": hidden})["new"]
        np.testing.assert_allclose(hidden, expected, atol=limit, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_gates_are_reordered_block_by_block(cell: Cell) -> None:
    names = {"lstm": ["i", "f", "g", "o"], "gru": ["r", "z", "n"]}[cell]
    expected = {"lstm": ["i", "o", "f", "g"], "gru": ["z", "r", "n"]}[cell]
    torch_order = np.repeat(np.array(names), 2)
    assert reorder_gates(torch_order, cell).tolist() == np.repeat(np.array(expected), 2).tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("cell", CELLS)
def test_the_exporter_of_torch_gives_the_same_function(cell: Cell, tmp_path: Path) -> None:
    """Plain stacks, no lengths: all that `torch.onnx.export` can do. Our own graph must compute the same."""

    class Plain(nn.Module):
        def __init__(self, stack: RecurrentStack) -> None:
            super().__init__()
            self.rnn = stack.rnn

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.rnn(inputs)[0]
            return outputs

    stack = _stack(cell, 2, bidirectional=True)
    inputs = torch.randn(3, 7, INPUT)
    torch.onnx.export(Plain(stack).eval(), (inputs,), tmp_path / "plain.onnx", dynamo=True, verbose=False)
    theirs = run(session(onnx.load(tmp_path / "plain.onnx")), {"inputs": inputs.numpy()})
    ours = run(
        session(_sequence_graph(stack)),
        {"inputs": inputs.numpy(), "lengths": np.full(3, 7)}
        | {f"initial_{i}": np.zeros((3, HIDDEN), np.float32) for i in range(stack.num_states)},
    )
    np.testing.assert_allclose(ours["outputs"], next(iter(theirs.values())), atol=LIMIT, rtol=0)
