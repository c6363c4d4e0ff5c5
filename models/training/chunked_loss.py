"""Softmax cross-entropy over a large vocabulary, a slice of the tokens at a time.

All logits of a step are (tokens, V): for 700 tokens and 33,000 words 93 MB, which the usual loss writes and reads
several times, forward and backward. Here the gradient is computed with the loss, slice by slice, in a buffer that
is used again: the same numbers up to rounding, without ever holding all logits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SLICE_NUMBERS = 8_000_000  # logits of a slice: 32 MB in fp32


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        total = hidden.new_zeros(())
        gradients = torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)
        rows = max(1, _SLICE_NUMBERS // weight.shape[0])
        buffer = hidden.new_empty(min(rows, len(hidden)), weight.shape[0])
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = buffer[: len(hidden[part])]
            torch.addmm(bias, hidden[part], weight.t(), out=logits)  # (rows, V)
            top = logits.amax(dim=1, keepdim=True)
            wanted = logits.gather(1, targets[part, None])
            partition = logits.sub_(top).exp_().sum(dim=1, keepdim=True)
            total += (partition.log() + top - wanted).sum()
            # d loss / d logits = softmax - one-hot
            logits.div_(partition)
            logits.scatter_add_(1, targets[part, None], torch.full_like(wanted, -1.0))
            torch.mm(logits, weight, out=gradients[0][part])
            gradients[1].addmm_(logits.t(), hidden[part])
            gradients[2].add_(logits.sum(dim=0))
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden, weight, bias = ctx.saved_tensors
        return hidden * gradient, weight * gradient, bias * gradient, None


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Sum of the negative log-likelihoods of the targets, in nats, ().

    Args:
        hidden: (N, H), what the logits are computed from.
        weight: (V, H).
        bias: (V,).
        targets: (N,) int64.
    """
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return loss
