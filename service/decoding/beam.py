"""Beam search, one step at a time: scores of the next tokens go in, the next inputs come out.

Source: Graves 2012, "Sequence transduction with recurrent neural networks", section 2.5 (https://arxiv.org/abs/1211.3711),
with the length penalty of Wu et al. 2016, eq. 14 (https://arxiv.org/abs/1609.08144). `models.search` has the same
rules in torch, batched; the two agree token for token.

At each step every live hypothesis is expanded by its best 2 * beam_size tokens, and all candidates are ranked by
log-probability (ties: lower parent, then lower rank among the parent's tokens); tokens of NEVER_LOG_PROB are no
candidates. One that ends counts only while it ranks among the first beam_size; the others fill the beam. The search
ends when nothing is live, when no live hypothesis can beat the worst of the beam_size best finished ones, or at
max_tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.symbols import NEVER_LOG_PROB
from service.decoding.errors import NotANumber, check_number
from service.engine.interface import FinishReason, Hypothesis


class Decided(NamedTuple):
    """One token that is certain to be part of the best answer."""

    token: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class _Node:
    """A hypothesis: its tokens, the log-probability of each, and their sum."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    total: float


@dataclass(frozen=True, slots=True)
class _Finished:
    node: _Node
    score: float
    reason: FinishReason


def length_penalty(length: int, alpha: float) -> float:
    """Wu et al. 2016, eq. 14: what a log-probability is divided by.

    Args:
        length: Tokens, the end symbol included.
        alpha: Exponent; 0 compares plain log-probabilities.
    """
    return float(((5 + length) / 6) ** alpha)


class BeamSearch:
    """The search over one source.

    Args:
        beam_size: Hypotheses kept at each step. `GreedySearch` is what a beam of 1 means.
        num_best: Hypotheses wanted, at most beam_size.
        alpha: Exponent of the length penalty.
        max_tokens: Most tokens of a hypothesis.
        begin: Id of the first input.
        end: Id of the end symbol.
    """

    def __init__(self, beam_size: int, num_best: int, alpha: float, max_tokens: int, begin: int, end: int) -> None:
        if not 1 <= num_best <= beam_size or max_tokens < 1:
            raise ValueError(
                f"beam search: expected 1 <= num_best <= beam_size and max_tokens >= 1, "
                f"got num_best {num_best}, beam_size {beam_size}, max_tokens {max_tokens}"
            )
        self.tokens = [begin]  # the next inputs, one a live hypothesis
        self.parents = [0]  # which row of the last step each continues
        self.done = False
        self._beam_size, self._num_best = beam_size, num_best
        self._alpha, self._max_tokens, self._end = alpha, max_tokens, end
        self._bound_penalty = length_penalty(max_tokens + 1, alpha)
        self._live = [_Node((), (), 0.0)]
        self._finished: list[_Finished] = []  # best first, at most beam_size
        self._num_decided = 0

    def advance(self, log_probs: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]) -> list[Decided]:
        """Take the outputs of one step and move on.

        Args:
            log_probs: Natural-log probabilities of the best tokens of each live hypothesis, best first.
            tokens: Their ids.

        Returns:
            The tokens that have become certain with this step.

        Raises:
            NotANumber: The model gave NaN.
        """
        for row in log_probs:
            check_number(sum(row))
        width = 2 * self._beam_size
        candidates = sorted(
            (-(node.total + log_prob), parent, rank, log_prob, token)
            for parent, (node, row_probs, row_tokens) in enumerate(zip(self._live, log_probs, tokens, strict=True))
            for rank, (log_prob, token) in enumerate(zip(row_probs[:width], row_tokens[:width], strict=True))
            if log_prob > NEVER_LOG_PROB
        )
        if not candidates:
            raise NotANumber(f"expected a token that may come, got {len(log_probs)} rows without")
        live: list[_Node] = []
        parents: list[int] = []
        for place, (cost, parent, _, log_prob, token) in enumerate(candidates):
            before = self._live[parent]
            if token == self._end:
                if place < self._beam_size:
                    self._finish(_Node(before.tokens, (*before.log_probs, log_prob), -cost), "end")
            else:
                live.append(_Node((*before.tokens, token), (*before.log_probs, log_prob), -cost))
                parents.append(parent)
                if len(live) == self._beam_size:
                    break
        self._live, self.parents = live, parents
        if live and len(live[0].tokens) == self._max_tokens:
            for node in live:
                self._finish(node, "length")
            self._live = []
        if self._settled():
            self._live = []
        self.done = not self._live
        self.tokens = [node.tokens[-1] for node in self._live]
        return self._newly_decided()

    def hypotheses(self) -> list[Hypothesis]:
        """The best `num_best`, best first (ties: the earlier finished); final once `done`."""
        return [
            Hypothesis(best.node.tokens, best.node.total, best.score, best.reason)
            for best in self._finished[: self._num_best]
        ]

    def _finish(self, node: _Node, reason: FinishReason) -> None:
        length = len(node.log_probs)
        self._finished.append(_Finished(node, node.total / length_penalty(length, self._alpha), reason))
        self._finished.sort(key=lambda finished: -finished.score)  # stable: the earlier of equals stays first
        del self._finished[self._beam_size :]

    def _settled(self) -> bool:
        """Whether no live hypothesis can still get among the finished ones."""
        if not self._live or len(self._finished) < self._beam_size:
            return False
        # log-probabilities only fall, and a longer hypothesis is divided by more: this is the best they can reach.
        return self._live[0].total / self._bound_penalty <= self._finished[-1].score

    def _newly_decided(self) -> list[Decided]:
        """Extend the longest common prefix of all hypotheses that can still come out best."""
        contenders = list(self._live)
        if self._finished:
            best = self._finished[0]
            contenders = [node for node in contenders if node.total / self._bound_penalty > best.score]
            contenders.append(best.node)
        first, start = contenders[0], self._num_decided
        common = len(first.tokens)
        for other in contenders[1:]:
            common = min(common, len(other.tokens))
            while common > start and first.tokens[start:common] != other.tokens[start:common]:
                common -= 1
        self._num_decided = common
        return [Decided(*pair) for pair in zip(first.tokens[start:common], first.log_probs[start:common], strict=True)]
