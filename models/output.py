"""From scores over a vocabulary to log-probabilities of what may come next."""

import torch
from torch import Tensor

from models.symbols import NEVER_LOG_PROB, NEVER_NEXT


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
