"""Names of recurrent states, shared by the torch modules, the ONNX emitters and the manifest. No torch."""

from models.config import Cell


def state_names(cell: Cell, layers: int, bidirectional: bool) -> tuple[str, ...]:
    """List the state tensors of a recurrent stack in the order in which they are passed everywhere.

    Layer by layer; in a layer the hidden states (forward, then backward), then, for an LSTM, the cells likewise.

    Args:
        cell: Kind of cell; a GRU has no `cell_*` states.
        layers: Layers of the stack.
        bidirectional: Whether every layer has a backward direction.

    Returns:
        E.g. `("hidden_0", "cell_0", "hidden_1", "cell_1")`.
    """
    kinds = ("hidden", "cell") if cell == "lstm" else ("hidden",)
    suffixes = ("_forward", "_backward") if bidirectional else ("",)
    return tuple(f"{kind}_{layer}{suffix}" for layer in range(layers) for kind in kinds for suffix in suffixes)
