"""Stacks of LSTM or GRU layers over padded batches, states in and states out."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.config import Cell
from models.initialise import initialise_gates

# (B, H) each, in the order of `models.states.state_names`.
States = tuple[Tensor, ...]


class RecurrentStack(nn.Module):
    """A (bidirectional) LSTM or GRU of one or more layers. Keeps nothing between calls.

    Args:
        cell: "lstm" or "gru", as `torch.nn.LSTM` and `torch.nn.GRU` define them.
        input_size: I, width of the inputs.
        hidden: H, units of a layer and direction.
        layers: Layers; each reads the outputs of the one below, both directions concatenated.
        bidirectional: Whether a second direction reads each sequence from its last step to its first.
        dropout: Chance that an output between two layers is zeroed in training.
    """

    def __init__(
        self, cell: Cell, input_size: int, hidden: int, layers: int, bidirectional: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.cell = cell
        self.input_size = input_size
        self.hidden = hidden
        self.layers = layers
        self.bidirectional = bidirectional
        self.directions = 2 if bidirectional else 1
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.rnn: nn.LSTM | nn.GRU = kind(
            input_size,
            hidden,
            layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )
        initialise_gates(self.rnn.named_parameters(), 4 if cell == "lstm" else 3)

    @property
    def output_size(self) -> int:
        """D*H, width of the outputs."""
        return self.directions * self.hidden

    @property
    def num_states(self) -> int:
        """How many tensors the states are."""
        return self.layers * self.directions * (2 if self.cell == "lstm" else 1)

    def initial_states(self, batch_size: int) -> States:
        """Zeros, (B, H) each."""
        weight = next(self.rnn.parameters())  # for its type and device
        return tuple(weight.new_zeros(batch_size, self.hidden) for _ in range(self.num_states))

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, states: States | None = None
    ) -> tuple[Tensor, States]:
        """Run over whole sequences.

        Args:
            inputs: (B, T, I).
            lengths: (B,) int64, 1 to T; None where every sequence has T steps (and the run is quicker).
            states: What the sequences start from; None is zeros.

        Returns:
            Outputs (B, T, D*H), zeros past the end of a sequence, and the states after the last step of each sequence
            (backward direction: after its first).
        """
        batch_size, num_steps = inputs.shape[0], inputs.shape[1]
        states = self.initial_states(batch_size) if states is None else states
        if len(states) != self.num_states:
            raise ValueError(f"states: expected {self.num_states} tensors, got {len(states)}")
        stacked = self._stack(states)
        if lengths is None:
            outputs, final = self.rnn(inputs, stacked)
            return outputs, self._unstack(final)
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed_outputs, final = self.rnn(packed, stacked)
        outputs, _ = pad_packed_sequence(packed_outputs, batch_first=True, total_length=num_steps)
        return outputs, self._unstack(final)

    def _stack(self, states: States) -> Tensor | tuple[Tensor, Tensor]:
        """To what torch takes: (L*D, B, H), direction fastest."""
        if self.cell == "gru":
            return torch.stack(states)
        d = self.directions
        hidden = [s for i, s in enumerate(states) if i // d % 2 == 0]
        cell = [s for i, s in enumerate(states) if i // d % 2 == 1]
        return torch.stack(hidden), torch.stack(cell)

    def _unstack(self, final: Tensor | tuple[Tensor, Tensor]) -> States:
        if isinstance(final, Tensor):
            return final.unbind(0)
        d = self.directions
        hidden, cell = final[0].unbind(0), final[1].unbind(0)
        return tuple(
            state
            for layer in range(self.layers)
            for part in (hidden, cell)
            for state in part[layer * d : layer * d + d]
        )
