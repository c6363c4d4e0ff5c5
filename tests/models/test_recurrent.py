"""Recurrent stacks: padding changes nothing, states carry, order of the states."""

import pytest
import torch
from torch import Tensor

from models.config import Cell
from models.recurrent import RecurrentStack
from models.states import state_names

CASES = [(cell, layers, both) for cell in ("lstm", "gru") for layers in (1, 3) for both in (False, True)]


def _stack(cell: Cell, layers: int, bidirectional: bool) -> RecurrentStack:
    torch.manual_seed(0)
    return RecurrentStack(cell, 5, 4, layers, bidirectional, dropout=0.5).eval()


def _states(stack: RecurrentStack, batch_size: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(batch_size, stack.hidden) for _ in range(stack.num_states))


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), CASES)
def test_a_padded_row_is_what_it_is_alone(cell: Cell, layers: int, bidirectional: bool) -> None:
    stack = _stack(cell, layers, bidirectional)
    inputs, lengths, states = torch.randn(4, 6, 5), torch.tensor([3, 6, 1, 4]), _states(stack, 4)
    outputs, final = stack(inputs, lengths, states)
    for row, length in enumerate(lengths.tolist()):
        alone, last = stack(inputs[row : row + 1, :length], None, tuple(s[row : row + 1] for s in states))
        torch.testing.assert_close(outputs[row, :length], alone[0])
        assert outputs[row, length:].abs().sum() == 0
        for batched, single in zip(final, last, strict=True):
            torch.testing.assert_close(batched[row], single[0])


@pytest.mark.parametrize(("cell", "layers", "bidirectional"), CASES)
def test_states_are_in_the_order_of_their_names(cell: Cell, layers: int, bidirectional: bool) -> None:
    """Against torch's own final states, which are named by kind, layer and direction."""
    stack = _stack(cell, layers, bidirectional)
    inputs, states = torch.randn(2, 3, 5), _states(stack, 2)
    names = state_names(cell, layers, bidirectional)
    assert len(set(names)) == len(names) == stack.num_states

    def torch_order(values: tuple[Tensor, ...], kind: str) -> Tensor:
        suffixes = ["_forward", "_backward"] if bidirectional else [""]
        return torch.stack([values[names.index(f"{kind}_{n}{s}")] for n in range(layers) for s in suffixes])

    kinds = ["hidden", "cell"] if cell == "lstm" else ["hidden"]
    given = [torch_order(states, kind) for kind in kinds]
    _, expected = stack.rnn(inputs, tuple(given) if cell == "lstm" else given[0])
    _, final = stack(inputs, None, states)
    for kind, value in zip(kinds, expected if cell == "lstm" else (expected,), strict=True):
        torch.testing.assert_close(torch_order(final, kind), value)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_state_carries_from_chunk_to_chunk(cell: Cell) -> None:
    stack = _stack(cell, 2, bidirectional=False)
    inputs = torch.randn(3, 8, 5)
    whole, final = stack(inputs)
    first, states = stack(inputs[:, :5])
    second, last = stack(inputs[:, 5:], None, states)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    for one, other in zip(last, final, strict=True):
        torch.testing.assert_close(one, other)


def test_the_forget_gate_starts_open() -> None:
    stack = _stack("lstm", 1, bidirectional=False)
    state = stack.rnn.state_dict()
    total = state["bias_ih_l0"] + state["bias_hh_l0"]
    assert total.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


def test_recurrent_weights_start_orthogonal() -> None:
    stack = _stack("gru", 1, bidirectional=False)
    for gate in stack.rnn.state_dict()["weight_hh_l0"].chunk(3):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4), atol=1e-5, rtol=0)


def test_a_wrong_number_of_states_is_refused() -> None:
    stack = _stack("lstm", 2, bidirectional=False)
    with pytest.raises(ValueError, match="expected 4 tensors, got 1"):
        stack(torch.randn(1, 2, 5), None, (torch.zeros(1, 4),))


def test_names_of_states() -> None:
    assert state_names("lstm", 2, False) == ("hidden_0", "cell_0", "hidden_1", "cell_1")
    assert state_names("gru", 1, True) == ("hidden_0_forward", "hidden_0_backward")
    expected = ("hidden_0_forward", "hidden_0_backward", "cell_0_forward", "cell_0_backward")
    assert state_names("lstm", 1, True) == expected
