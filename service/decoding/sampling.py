"""Draw the next token.

The noise is a function of (seed, position) alone, by a counter-based generator (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), and a row is worked on by itself: the same seed gives the same text in any batch.
"""

import numpy as np
import numpy.typing as npt

from service.engine.interface import Sampling


def sample(log_probs: npt.NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """Choose a token: temperature first, then top-k, then top-p (Holtzman et al. 2020).

    Args:
        log_probs: (V,), natural log.
        sampling: How; ties go to the lower id.
        position: Of the token in the answer, counted from 0; names the noise.
    """
    if sampling.temperature == 0:
        return int(log_probs.argmax())
    scaled = log_probs.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())  # (V,), not normalised
    kept = np.arange(len(weights))
    if 0 < sampling.top_k < len(weights):
        kept = _heaviest(weights, sampling.top_k)
    if sampling.top_p < 1:
        kept = _nucleus(weights, kept, sampling.top_p)
    cumulative = weights[kept].cumsum()
    place = np.searchsorted(cumulative, noise(sampling.seed, position) * cumulative[-1], side="right")
    last = np.searchsorted(cumulative, cumulative[-1], side="left")  # of weight above 0; rounding may point beyond it
    return int(kept[min(place, last)])


def noise(seed: int, position: int) -> float:
    """A number in [0, 1), uniform over positions of one seed and over seeds (uint64) at one position."""
    raw = np.random.Philox(key=seed, counter=position).random_raw()
    return (int(raw) >> 11) * 2.0**-53


def _heaviest(weights: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Ids of the `count` largest weights, ascending; ties at the edge go to lower ids."""
    edge = np.partition(weights, len(weights) - count)[len(weights) - count]
    kept = weights > edge
    at_edge = np.flatnonzero(weights == edge)[: count - int(kept.sum())]
    kept[at_edge] = True
    return np.flatnonzero(kept)


def _nucleus(
    weights: npt.NDArray[np.float64], candidates: npt.NDArray[np.int64], top_p: float
) -> npt.NDArray[np.int64]:
    """The fewest candidates, heaviest first, whose share of the candidates' weight is at least top_p."""
    given = weights[candidates]
    # Values sort quicker than ids by value, and how many are kept is all that is missing.
    reached = np.sort(given)[::-1].cumsum() >= top_p * given.sum()
    count = int(reached.argmax()) + 1 if reached.any() else len(given)  # rounding may keep the sum below top_p
    return candidates[_heaviest(given, count)]
