"""Attention over encoder outputs whose keys are projected once."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from models.initialise import initialise_linear


class Attention(nn.Module):
    """Content-based attention: a query decides how much of each memory position to read.

    additive: score = v . tanh(W_k m + b + W_q q). Source: Bahdanau et al. 2015, appendix A.1.2,
        https://arxiv.org/abs/1409.0473.
    multiplicative: score = (W_k m + b) . (W_q q) / sqrt(A). Source: Luong et al. 2015, eq. 8 ("general"),
        https://arxiv.org/abs/1508.04025; here the bilinear form is factored through width A, so that the keys are
        projected once, and scaled as in Vaswani et al. 2017, so that wide keys do not saturate the softmax.

    Args:
        kind: See above.
        memory_size: M, width of the memory.
        query_size: Q, width of the query.
        attention_dim: A, width of the keys.
    """

    def __init__(
        self, kind: Literal["additive", "multiplicative"], memory_size: int, query_size: int, attention_dim: int
    ) -> None:
        super().__init__()
        self.kind = kind
        self.key = nn.Linear(memory_size, attention_dim)
        self.query = nn.Linear(query_size, attention_dim, bias=False)
        initialise_linear(self.key)
        initialise_linear(self.query)
        self.scale = 1.0 / math.sqrt(attention_dim)
        self.energy: nn.Linear | None = None
        if kind == "additive":
            self.energy = nn.Linear(attention_dim, 1, bias=False)
            initialise_linear(self.energy)

    def keys(self, memory: Tensor) -> Tensor:
        """Project the memory (B, S, M) to keys (B, S, A), once a sequence."""
        projected: Tensor = self.key(memory)
        return projected

    def forward(self, query: Tensor, memory: Tensor, keys: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Read the memory.

        Args:
            query: (B, Q).
            memory: (B, S, M).
            keys: (B, S, A), from `keys`.
            mask: (B, S) bool, True = real position; at least one a row.

        Returns:
            Context (B, M), the weighted mean of the memory, and the weights (B, S).
        """
        projected = self.query(query)  # (B, A)
        if self.energy is not None:
            scores = self.energy(torch.tanh(keys + projected[:, None])).squeeze(-1)  # (B, S)
        else:
            scores = torch.bmm(keys, projected[:, :, None]).squeeze(-1) * self.scale  # (B, S)
        weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1)
        return torch.bmm(weights[:, None], memory).squeeze(1), weights
