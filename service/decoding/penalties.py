"""Penalties on the tokens that a text has already.

The repetition penalty is that of Keskar et al. 2019, "CTRL", section 4.1 (https://arxiv.org/abs/1909.05858), on
log-probabilities, which are never above 0, so that multiplying always lowers them; it looks at prompt and text. The
frequency and the presence penalty look at the text alone. They touch the tokens seen and no others, so a row is read
where it lies and only those entries are computed.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from service.engine.interface import Sampling

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Penalties:
    """The tokens that one text has, and what they cost.

    Args:
        sampling: Holds the three penalties.
        prompt: Ids before the text.
        max_tokens: Most tokens of the text.

    Attributes:
        none: Whether nothing is penalised at all.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int], max_tokens: int) -> None:
        self._factor = np.float32(sampling.repetition_penalty)
        self._frequency, self._presence = sampling.frequency_penalty, sampling.presence_penalty
        self._repeats = sampling.repetition_penalty != 1
        self.none = not self._repeats and self._frequency == 0 and self._presence == 0
        self._places: dict[int, int] = {}  # of each token among the seen
        seen = dict.fromkeys(prompt) if self._repeats else {}
        size = len(seen) + (0 if self.none else max_tokens)
        self._tokens = np.zeros(size, dtype=np.int64)
        self._counts = np.zeros(size, dtype=np.int64)
        self._costs = np.zeros(size, dtype=np.float32)  # what is subtracted from each
        for token in seen:
            self._place(token)

    @property
    def num_seen(self) -> int:
        """Different tokens whose log-probability is another than the model's."""
        return len(self._places)

    @property
    def only_lower(self) -> bool:
        """Whether no log-probability is ever raised."""
        return bool(self._factor >= 1) and self._frequency >= 0 and self._presence >= 0

    def add(self, token: int) -> None:
        """Take a token of the text."""
        if self.none:
            return
        place = self._place(token)
        self._counts[place] += 1
        self._costs[place] = self._frequency * int(self._counts[place]) + self._presence

    def apply(self, log_probs: Floats) -> Floats:
        """Penalise a whole row.

        Args:
            log_probs: (V,), not written to.

        Returns:
            (V,): the same where nothing was seen, else a copy.
        """
        num_seen = len(self._places)
        if not num_seen:
            return log_probs
        tokens = self._tokens[:num_seen]
        penalised = log_probs.copy()
        penalised[tokens] = log_probs[tokens] * self._factor - self._costs[:num_seen]
        return penalised

    def apply_to(self, log_probs: Floats, tokens: Ids) -> Floats:
        """Penalise some entries of a row, to the bit as `apply` does.

        Args:
            log_probs: (n,), of `tokens`.
            tokens: (n,) ids.
        """
        places = [self._places.get(token, -1) for token in tokens.tolist()]
        seen = [entry for entry, place in enumerate(places) if place >= 0]
        if not seen:
            return log_probs
        penalised = log_probs.copy()
        costs = self._costs[[places[entry] for entry in seen]]
        penalised[seen] = log_probs[seen] * self._factor - costs
        return penalised

    def _place(self, token: int) -> int:
        place = self._places.setdefault(token, len(self._places))
        self._tokens[place] = token
        return place
