"""Linear-chain conditional random field over tags.

Source: Lafferty et al. 2001; as a layer over a BiLSTM, Lample et al. 2016, section 2.2, https://arxiv.org/abs/1603.01360.
"""

import torch
from torch import Tensor, nn

from models.masks import length_mask


class LinearChainCrf(nn.Module):
    """Scores of tag sequences: start + sum of emissions + sum of transitions + end.

    Args:
        num_tags: K.
    """

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.empty(num_tags))
        self.end = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))  # from -> to
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def log_likelihood(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Log-probability of tag sequences, natural logarithm.

        Args:
            emissions: (B, T, K).
            tags: (B, T) int64; any valid id past the end.
            lengths: (B,) int64, 1 to T.

        Returns:
            (B,), at most 0 up to rounding.
        """
        return self._score(emissions, tags, lengths) - self._log_partition(emissions, lengths)

    def viterbi(self, emissions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Find the best tag sequences (Viterbi 1967).

        Args:
            emissions: (B, T, K).
            lengths: (B,) int64, 1 to T.

        Returns:
            Tags (B, T) int64, 0 past the end, and their scores (B,), unnormalised.
        """
        batch_size, num_steps, num_tags = emissions.shape
        mask = length_mask(lengths, num_steps)
        best = self.start + emissions[:, 0]  # (B, K)
        stay = torch.arange(num_tags, device=emissions.device).expand(batch_size, num_tags)
        back = []
        for t in range(1, num_steps):
            scores, previous = (best[:, :, None] + self.transitions).max(dim=1)  # (B, K)
            real = mask[:, t, None]
            best = torch.where(real, scores + emissions[:, t], best)
            back.append(torch.where(real, previous, stay))  # past the end the tag stays what it was
        score, tag = (best + self.end).max(dim=1)  # (B,)
        path = [tag]
        for previous in reversed(back):
            tag = previous.gather(1, tag[:, None]).squeeze(1)
            path.append(tag)
        return torch.stack(path[::-1], dim=1).masked_fill(~mask, 0), score

    def _score(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """(B,) unnormalised score of given tags."""
        mask = length_mask(lengths, emissions.shape[1])
        emitted = emissions.gather(2, tags[:, :, None]).squeeze(2)  # (B, T)
        moved = self.transitions[tags[:, :-1], tags[:, 1:]]  # (B, T-1)
        last = tags.gather(1, lengths[:, None] - 1).squeeze(1)
        inner = emitted.masked_fill(~mask, 0).sum(1) + moved.masked_fill(~mask[:, 1:], 0).sum(1)
        return self.start[tags[:, 0]] + inner + self.end[last]

    def _log_partition(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """(B,) log of the sum over all tag sequences of exp(score): the forward algorithm."""
        mask = length_mask(lengths, emissions.shape[1])
        alpha = self.start + emissions[:, 0]  # (B, K)
        for t in range(1, emissions.shape[1]):
            step = torch.logsumexp(alpha[:, :, None] + self.transitions, dim=1) + emissions[:, t]
            alpha = torch.where(mask[:, t, None], step, alpha)
        return torch.logsumexp(alpha + self.end, dim=1)
