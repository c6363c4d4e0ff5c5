"""From scores over a vocabulary to log-probabilities of what may come next."""

from typing import Final

import torch
from torch import Tensor

# Ids of <pad> and <s>, which no text ever continues with, and the log-probability that they get.
NEVER_NEXT: Final = (0, 2)
NEVER_LOG_PROB: Final = -1e9


def next_log_probs(logits: Tensor) -> Tensor:
    """Log-softmax, then -1e9 for `<pad>` and `<s>`; nothing is renormalised.

    Args:
        logits: (..., V).

    Returns:
        (..., V), natural logarithms.
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    never = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    never[list(NEVER_NEXT)] = True
    return log_probs.masked_fill(never, NEVER_LOG_PROB)
