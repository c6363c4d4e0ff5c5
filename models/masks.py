"""Masks of padded batches."""

import torch
from torch import Tensor


def length_mask(lengths: Tensor, num_steps: int) -> Tensor:
    """Mark the real positions of padded sequences.

    Args:
        lengths: (B,) int64.
        num_steps: T, the padded length.

    Returns:
        (B, T) bool, True = real token.
    """
    return torch.arange(num_steps, device=lengths.device) < lengths[:, None]
