"""Weights of recurrent layers: out of torch modules, into ONNX order."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from torch import Tensor

from export.emit.builder import Array
from models.cells import RecurrentCell
from models.config import Cell
from models.recurrent import RecurrentStack

# Positions of torch's gates (LSTM i, f, g, o; GRU r, z, n) in ONNX's order (LSTM i, o, f, c; GRU z, r, h).
GATE_ORDER: Final[dict[Cell, tuple[int, ...]]] = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


@dataclass(frozen=True)
class CellWeights:
    """One layer and direction as torch has it, G gates of H units each.

    Args:
        cell: Kind of cell.
        weight_ih: (G*H, I).
        weight_hh: (G*H, H).
        bias_ih: (G*H,).
        bias_hh: (G*H,).
        reset_after: Of a GRU: whether the reset gate multiplies the recurrent product of the candidate, as in torch and
            cuDNN, or the state before the product, as in Cho et al. 2014, https://arxiv.org/abs/1406.1078.
    """

    cell: Cell
    weight_ih: Array
    weight_hh: Array
    bias_ih: Array
    bias_hh: Array
    reset_after: bool = True

    @property
    def hidden(self) -> int:
        """H."""
        return int(self.weight_hh.shape[1])

    @classmethod
    def from_cell(cls, cell: RecurrentCell) -> "CellWeights":
        """Weights of a decoder layer."""
        weight_ih, weight_hh = to_numpy(cell.weight_ih), to_numpy(cell.weight_hh)
        return cls(cell.cell, weight_ih, weight_hh, to_numpy(cell.bias_ih), to_numpy(cell.bias_hh))

    @classmethod
    def from_stack(cls, stack: RecurrentStack, layer: int, backward: bool = False) -> "CellWeights":
        """Weights of one layer and direction of a stack."""
        state = stack.rnn.state_dict()
        suffix = f"_l{layer}" + ("_reverse" if backward else "")
        weight_ih, weight_hh = (to_numpy(state[name + suffix]) for name in ("weight_ih", "weight_hh"))
        bias_ih, bias_hh = (to_numpy(state[name + suffix]) for name in ("bias_ih", "bias_hh"))
        return cls(stack.cell, weight_ih, weight_hh, bias_ih, bias_hh)

    def onnx(self) -> tuple[Array, Array, Array]:
        """W (G*H, I), R (G*H, H) and B (2*G*H,) = [Wb; Rb] with the gates in ONNX's order."""
        weight_ih, weight_hh, bias_ih, bias_hh = (
            reorder_gates(array, self.cell) for array in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        )
        return weight_ih, weight_hh, np.concatenate([bias_ih, bias_hh])


def reorder_gates(array: Array, cell: Cell) -> Array:
    """Reorder the gate blocks of the first axis from torch's order to ONNX's."""
    order = GATE_ORDER[cell]
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[gate] for gate in order])


def to_numpy(tensor: Tensor) -> Array:
    """A float32 copy on the host."""
    return tensor.detach().cpu().float().numpy().copy()
