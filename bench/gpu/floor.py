"""The least time that a step can take on a card: bytes that must be moved, operations that must be done.

    bytes      = weights of the recurrent layers and of the output, once a run
                 + B embedded inputs, read + 2 * B states (float32), read and written
    operations = 2 * B * (weights of the recurrent layers and of the output)
    floor      = max(bytes / bytes a second of the card's memory, operations / operations a second)

Copies to and from the host, launches, pointwise functions and the softmax are left out: nothing can be below it.
"""

from dataclasses import dataclass
from typing import Final

from bench.gpu.cards import Card
from bench.gpu.plan import Size

FORMULA: Final = (
    "floor = max((weights + B * E * bytes a weight + 2 * B * state) / bytes/s, 2 * B * weights / operations/s);"
    " weights of the recurrent layers and of the output; state 2 * L * H in float32"
)
_STATE_BYTES: Final = 4  # of a number of the state, in every precision


@dataclass(frozen=True)
class Floor:
    """Of one step model.

    Args:
        num_weights: Of the recurrent layers and of the output.
        weight_bytes: Of each.
        embedding: E.
        state_bytes: Of one session.
    """

    num_weights: int
    weight_bytes: int
    embedding: int
    state_bytes: int

    @classmethod
    def of(cls, size: Size, hidden: int, precision: str) -> "Floor":
        """That of the LSTM language model: cells and hidden states, four gates, two biases each."""
        inputs = [size.embedding] + [hidden] * (size.layers - 1)
        recurrent = sum(4 * hidden * (width + hidden + 2) for width in inputs)
        output = (hidden + 1) * size.vocabulary
        state_bytes = 2 * size.layers * hidden * _STATE_BYTES
        return cls(recurrent + output, 2 if precision == "fp16" else 4, size.embedding, state_bytes)

    def bytes_moved(self, rows: int) -> int:
        """Bytes of a step of so many rows."""
        embedded = rows * self.embedding * self.weight_bytes
        return self.num_weights * self.weight_bytes + embedded + 2 * rows * self.state_bytes

    def operations(self, rows: int) -> int:
        """Operations of a step of so many rows."""
        return 2 * rows * self.num_weights

    def seconds(self, rows: int, card: Card, precision: str) -> float:
        """The least seconds of a step of so many rows."""
        return max(self.bytes_moved(rows) / card.bytes_per_s, self.operations(rows) / card.ops(precision))
