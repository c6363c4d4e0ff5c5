"""Initial weights: glorot for inputs, orthogonal for recurrences, forget gates open."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

EMBEDDING_RANGE = 0.1  # half-width of the uniform distribution


@torch.no_grad()
def initialise_gates(parameters: Iterable[tuple[str, Tensor]], num_gates: int) -> None:
    """Initialise the parameters of an `nn.LSTM`, `nn.GRU` or a cell of either, in place.

    Input weights glorot uniform (Glorot and Bengio 2010) and recurrent ones orthogonal (Saxe et al. 2014), gate by
    gate; biases zero, but 1 for the forget gate of an LSTM (Jozefowicz et al. 2015), half of which would otherwise
    come from each of torch's two bias vectors.

    Args:
        parameters: `named_parameters()` of the module; names hold `weight_ih`, `weight_hh`, `bias_ih` or `bias_hh`.
        num_gates: 4 for an LSTM (i, f, g, o), 3 for a GRU (r, z, n).
    """
    for name, parameter in parameters:
        if "weight" in name:
            for gate in parameter.chunk(num_gates):
                if "weight_hh" in name:
                    nn.init.orthogonal_(gate)
                else:
                    nn.init.xavier_uniform_(gate)
        else:
            parameter.zero_()
            if num_gates == 4 and "bias_ih" in name:
                parameter.chunk(num_gates)[1].fill_(1.0)


@torch.no_grad()
def initialise_linear(linear: nn.Linear) -> None:
    """Initialise a projection in place: weights glorot uniform, biases zero."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        linear.bias.zero_()


@torch.no_grad()
def initialise_embedding(embedding: nn.Embedding) -> None:
    """Initialise an embedding in place: uniform, the padding row zero."""
    nn.init.uniform_(embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
    if embedding.padding_idx is not None:
        embedding.weight[embedding.padding_idx].zero_()
