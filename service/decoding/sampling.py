"""Draw the next token.

The noise is a function of (seed, position) alone, and a row is worked on by itself: the same seed gives the same text
in any batch. The generator is counter-based, a keyed hash of the counter (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3", section 2.2), with BLAKE2b (RFC 7693) as the hash.

A row is as long as the vocabulary and its engine waits meanwhile, so it is read where it lies, and what is done to all
of it is done in float32 and without sorting.
"""

from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from service.decoding.errors import check_number
from service.decoding.penalties import Penalties
from service.decoding.select import largest, nucleus
from service.engine.interface import Sampling

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
_BLOCK: Final = 256


class Sampler:
    """Draws the tokens of one text, in order.

    Args:
        sampling: How; ties go to the lower id.
        prompt: Ids before the text.
        max_tokens: Most tokens of the text.
    """

    def __init__(self, sampling: Sampling, prompt: tuple[int, ...], max_tokens: int) -> None:
        self._sampling = sampling
        self._penalties = Penalties(sampling, prompt, max_tokens)
        self._num_drawn = 0

    @property
    def takes_best(self) -> bool:
        """Whether every token is just the model's best, which nobody needs a sampler to see."""
        return self._sampling.temperature == 0 and self._penalties.none

    @property
    def num_needed(self) -> int:
        """How many of the model's best tokens the next one can come from; 0: any may come, the whole row is needed.

        Penalties that only lower move at most the tokens seen out of the best: of the K best after them, none is beyond
        the K + (number seen) best before.
        """
        sampling = self._sampling
        kept = 1 if sampling.temperature == 0 else sampling.top_k
        return kept + self._penalties.num_seen if kept and self._penalties.only_lower else 0

    def draw(self, log_probs: Floats) -> tuple[int, float]:
        """Choose from a whole row.

        Args:
            log_probs: (V,), natural log; not written to.

        Returns:
            The token, and the log-probability that the model gave it.

        Raises:
            NotANumber: The model gave NaN.
        """
        token = sample(self._penalties.apply(log_probs), self._sampling, self._num_drawn)
        self._took(token)
        return token, float(log_probs[token])

    def draw_from_top(self, top_log_probs: Floats, top_tokens: Ids) -> tuple[int, float]:
        """Choose as `draw` does, to the bit, from the best alone.

        Args:
            top_log_probs: (k,), k >= num_needed, best first, ties by id.
            top_tokens: (k,) their ids.

        Raises:
            NotANumber: The model gave NaN.
        """
        num_needed = self.num_needed
        tokens = top_tokens[:num_needed]
        order = tokens.argsort()  # as in the whole row, so that the noise points to the same token
        tokens, log_probs = tokens[order], top_log_probs[:num_needed][order]
        place = sample(self._penalties.apply_to(log_probs, tokens), self._sampling, self._num_drawn)
        token = int(tokens[place])
        self._took(token)
        return token, float(log_probs[place])

    def _took(self, token: int) -> None:
        self._penalties.add(token)
        self._num_drawn += 1


def sample(log_probs: Floats, sampling: Sampling, position: int) -> int:
    """Choose a token: temperature first, then top-k, then top-p (Holtzman et al. 2020). Penalties come before.

    Args:
        log_probs: (V,), natural log, penalised; not written to.
        sampling: How; ties go to the lower id.
        position: Of the token in the answer, counted from 0; names the noise.

    Raises:
        NotANumber: The model gave NaN.
    """
    if sampling.temperature == 0:
        place = int(log_probs.argmax())  # NaN is the largest
        check_number(float(log_probs[place]))
        return place
    best = log_probs.max()
    check_number(float(best))
    kept = None  # all
    if 0 < sampling.top_k < len(log_probs):
        kept = largest(log_probs, sampling.top_k)
        log_probs = log_probs[kept]
    weights = log_probs - best
    if sampling.temperature != 1:
        weights *= np.float32(1 / sampling.temperature)
    np.exp(weights, out=weights)  # not normalised; the largest is 1
    if sampling.top_p < 1:
        heaviest = nucleus(weights, sampling.top_p)
        kept, weights = heaviest if kept is None else kept[heaviest], weights[heaviest]
    place = _draw(weights, noise(sampling.seed, position))
    return place if kept is None else int(kept[place])


def noise(seed: int, position: int) -> float:
    """A number in [0, 1), uniform over positions of one seed and over seeds (uint64) at one position."""
    mixed = blake2b(position.to_bytes(8, "little"), digest_size=8, key=seed.to_bytes(8, "little"))
    return (int.from_bytes(mixed.digest(), "little") >> 11) * 2.0**-53


def _draw(weights: Floats, at: float) -> int:
    """The place whose share of the line from 0 to the sum of the weights holds the point `at` times that sum.

    First the block, then the place in it: a running sum over everything would cost ten times as much.
    """
    if len(weights) <= _BLOCK:
        few = weights.cumsum(dtype=np.float64)
        return _share(few, at * float(few[-1]))
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)).cumsum(dtype=np.float64)
    point = at * float(blocks[-1])
    block = _share(blocks, point)
    start = block * _BLOCK
    before = float(blocks[block - 1]) if block else 0.0
    return start + _share(weights[start : start + _BLOCK].cumsum(dtype=np.float64), point - before)


def _share(cumulative: npt.NDArray[np.float64], point: float) -> int:
    """The first place whose running sum is above the point, and of weight above 0 where rounding points beyond all."""
    last = cumulative.searchsorted(cumulative[-1], side="left")
    return int(min(cumulative.searchsorted(point, side="right"), last))
