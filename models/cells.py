"""One step of one LSTM or GRU layer whose input part of the gates comes ready.

The decoder's input is the previous word, known for all steps in training, and the context, known step by step. Taking
the gates' input part as an argument lets the first be projected for all steps at once.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.config import Cell
from models.initialise import initialise_gates


class RecurrentCell(nn.Module):
    """A layer as `torch.nn.LSTMCell` and `torch.nn.GRUCell` define it, with their parameter names and gate order.

    Args:
        cell: "lstm" (gates i, f, g, o) or "gru" (gates r, z, n).
        input_size: I, width of the inputs.
        hidden: H, units.
    """

    def __init__(self, cell: Cell, input_size: int, hidden: int) -> None:
        super().__init__()
        self.cell = cell
        self.input_size = input_size
        self.hidden = hidden
        num_gates = 4 if cell == "lstm" else 3
        self.weight_ih = nn.Parameter(torch.empty(num_gates * hidden, input_size))
        self.weight_hh = nn.Parameter(torch.empty(num_gates * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.empty(num_gates * hidden))
        self.bias_hh = nn.Parameter(torch.empty(num_gates * hidden))
        initialise_gates(self.named_parameters(), num_gates)

    @property
    def num_states(self) -> int:
        """How many tensors the states are: hidden, and for an LSTM the cell."""
        return 2 if self.cell == "lstm" else 1

    def forward(self, projected: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Step once.

        Args:
            projected: (B, G*H), inputs times `weight_ih` plus `bias_ih`.
            states: (B, H) each.

        Returns:
            The new states, hidden first.
        """
        hidden = states[0]
        if self.cell == "lstm":
            i, f, g, o = (projected + functional.linear(hidden, self.weight_hh, self.bias_hh)).chunk(4, dim=-1)
            cell = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(cell), cell
        recurrent = functional.linear(hidden, self.weight_hh, self.bias_hh)
        r_in, z_in, n_in = projected.chunk(3, dim=-1)
        r_rec, z_rec, n_rec = recurrent.chunk(3, dim=-1)
        r, z = torch.sigmoid(r_in + r_rec), torch.sigmoid(z_in + z_rec)
        n = torch.tanh(n_in + r * n_rec)
        return (n + z * (hidden - n),)
