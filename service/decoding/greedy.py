"""Greedy search: a beam of one, which ends at the first end symbol. `BeamSearch`'s calls at a fraction of its cost."""

from collections.abc import Sequence

from service.decoding.beam import Decided, length_penalty
from service.decoding.errors import check_number
from service.engine.interface import Hypothesis


class GreedySearch:
    """Takes the best token of every step.

    Args:
        alpha: Exponent of the length penalty, for the score alone.
        max_tokens: Most tokens of the answer.
        begin: Id of the first input.
        end: Id of the end symbol.
    """

    parents = (0,)

    def __init__(self, alpha: float, max_tokens: int, begin: int, end: int) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens: expected at least 1, got {max_tokens}")
        self.tokens = [begin]  # the next input
        self.done = False
        self._alpha, self._max_tokens, self._end = alpha, max_tokens, end
        self._chosen: list[int] = []
        self._total = 0.0
        self._ended = False

    def advance(self, log_probs: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]) -> list[Decided]:
        """Take the outputs of one step, (1, k), best first, and move on.

        Returns:
            The token that it decided, if it is not the end.

        Raises:
            NotANumber: The model gave NaN.
        """
        token, log_prob = tokens[0][0], log_probs[0][0]
        check_number(log_prob)
        self._total += log_prob
        if token == self._end:
            self._ended = self.done = True
            return []
        self._chosen.append(token)
        self.tokens = [token]
        self.done = len(self._chosen) == self._max_tokens
        return [Decided(token, log_prob)]

    def hypotheses(self) -> list[Hypothesis]:
        """The answer; final once `done`."""
        score = self._total / length_penalty(len(self._chosen) + self._ended, self._alpha)
        return [Hypothesis(tuple(self._chosen), self._total, score, "end" if self._ended else "length")]
