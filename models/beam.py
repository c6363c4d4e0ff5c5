"""The bookkeeping of beam search for one source: scores come in, decisions come out.

Source: Sutskever et al. 2014, section 3.2; length penalty: Wu et al. 2016, eq. 14, https://arxiv.org/abs/1609.08144.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.symbols import EOS_ID, NEVER_LOG_PROB

FinishReason = Literal["end", "length"]


@dataclass(frozen=True)
class Hypothesis:
    """One finished target.

    Args:
        tokens: Target ids, without the end symbol.
        log_prob: Sum of natural-log probabilities, the end symbol's included.
        score: log_prob over the length penalty; what the order is by.
        finish_reason: "end": the end symbol came; "length": `max_tokens` were produced without it.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float
    finish_reason: FinishReason


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6) ** alpha: what log-probabilities are divided by; length in tokens, the end symbol too."""
    return float(((5.0 + length) / 6.0) ** alpha)


class Beam:
    """The live and finished hypotheses of one source.

    Every live hypothesis is expanded with its best k = min(2 beam_size, V) tokens. The candidates are ranked by
    log-probability (ties: lower parent, then better token) and walked down: one that ends in the end symbol is
    finished if it ranks among the first `beam_size`, and dropped if not; the others become live until `beam_size` are.
    The search ends when nothing is live; when `beam_size` hypotheses are finished and no live one can still beat the
    worst of the best `beam_size` of them; or after `max_tokens` steps, where live hypotheses finish as they are. With
    `beam_size` 1 it ends at the first end symbol, which makes it greedy search.

    Args:
        beam_size: Most live hypotheses, at least 1.
        alpha: Exponent of the length penalty, at least 0.
        max_tokens: Most steps, at least 1.
    """

    def __init__(self, beam_size: int, alpha: float, max_tokens: int) -> None:
        for name, value, least in (("beam_size", beam_size, 1), ("alpha", alpha, 0), ("max_tokens", max_tokens, 1)):
            if not value >= least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.beam_size = beam_size
        self.alpha = alpha
        self.max_tokens = max_tokens
        self.live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]  # tokens, log_prob; best first
        self.finished: list[Hypothesis] = []
        self._num_steps = 0

    def advance(self, top_log_probs: Sequence[Sequence[float]], top_tokens: Sequence[Sequence[int]]) -> list[int]:
        """Take one step.

        Args:
            top_log_probs: By live hypothesis, log-probabilities of its best next tokens, best first; those of
                -1e9 stand for what can never come next.
            top_tokens: Likewise, the ids.

        Returns:
            By new live hypothesis, the index of the one that it extends; empty when the search has ended.
        """
        self._num_steps += 1
        candidates = [
            (log_prob + step_log_prob, parent, tokens, token)
            for parent, (tokens, log_prob) in enumerate(self.live)
            for step_log_prob, token in zip(top_log_probs[parent], top_tokens[parent], strict=True)
            if step_log_prob > NEVER_LOG_PROB
        ]
        candidates.sort(key=lambda candidate: -candidate[0])  # stable: ties keep parent and token order
        live: list[tuple[tuple[int, ...], float]] = []
        parents: list[int] = []
        for rank, (log_prob, parent, tokens, token) in enumerate(candidates):
            if token == EOS_ID:
                if rank < self.beam_size:
                    self._finish(tokens, log_prob, len(tokens) + 1, "end")
            elif len(live) < self.beam_size:
                live.append(((*tokens, token), log_prob))
                parents.append(parent)
        self.live = live
        if self._num_steps == self.max_tokens:
            for tokens, log_prob in live:
                self._finish(tokens, log_prob, len(tokens), "length")
            self.live = []
        elif self._is_decided():
            self.live = []
        return parents if self.live else []

    def best(self, num_best: int) -> list[Hypothesis]:
        """The best finished hypotheses, at most `num_best`, by score (ties: finished earlier)."""
        return sorted(self.finished, key=lambda hypothesis: -hypothesis.score)[:num_best]

    def _finish(self, tokens: tuple[int, ...], log_prob: float, length: int, reason: FinishReason) -> None:
        score = log_prob / length_penalty(length, self.alpha)
        self.finished.append(Hypothesis(tokens, log_prob, score, reason))

    def _is_decided(self) -> bool:
        if len(self.finished) < self.beam_size or not self.live:
            return False
        if self.beam_size == 1:
            return True
        # log_prob is at most 0 and only falls, so the largest divisor bounds every score still possible from above.
        bound = self.live[0][1] / length_penalty(self.max_tokens + 1, self.alpha)
        return bound <= self.best(self.beam_size)[-1].score
