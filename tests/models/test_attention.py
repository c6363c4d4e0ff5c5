"""Attention against a loop over rows and positions."""

import math
from typing import Literal

import pytest
import torch

from models.attention import Attention
from models.masks import length_mask

KINDS: list[Literal["additive", "multiplicative"]] = ["additive", "multiplicative"]


@pytest.mark.parametrize("kind", KINDS)
def test_context_is_the_softmax_mean_over_real_positions(kind: Literal["additive", "multiplicative"]) -> None:
    torch.manual_seed(0)
    attention = Attention(kind, memory_size=6, query_size=5, attention_dim=4)
    torch.nn.init.normal_(attention.key.bias)
    query, memory, lengths = torch.randn(3, 5), torch.randn(3, 7, 6), torch.tensor([7, 1, 4])
    attention.requires_grad_(False)
    context, weights = attention(query, memory, attention.keys(memory), length_mask(lengths, 7))
    for row, length in enumerate(lengths.tolist()):
        asked = attention.query.weight @ query[row]
        scores = []
        for position in range(length):
            key = attention.key.weight @ memory[row, position] + attention.key.bias
            if attention.energy is not None:
                scores.append(float(attention.energy.weight[0] @ torch.tanh(key + asked)))
            else:
                scores.append(float(key @ asked) / math.sqrt(4))
        total = sum(math.exp(score) for score in scores)
        expected = [math.exp(score) / total for score in scores]
        assert weights[row].tolist() == pytest.approx(expected + [0.0] * (7 - length), abs=1e-6)
        mean = sum(w * memory[row, s] for s, w in enumerate(expected))
        torch.testing.assert_close(context[row], mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_never_read(kind: Literal["additive", "multiplicative"]) -> None:
    attention = Attention(kind, memory_size=6, query_size=5, attention_dim=4)
    query, memory, mask = torch.randn(2, 5), torch.randn(2, 4, 6), length_mask(torch.tensor([2, 3]), 4)
    poisoned = memory.masked_fill(~mask[:, :, None], 1e6)
    context, _ = attention(query, memory, attention.keys(memory), mask)
    other, _ = attention(query, poisoned, attention.keys(poisoned), mask)
    torch.testing.assert_close(context, other)
