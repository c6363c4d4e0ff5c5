"""Draw the next token.

The noise is a function of (seed, position) alone, by a counter-based generator (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), and a row is worked on by itself: the same seed gives the same text in any batch.

A row is as long as the vocabulary and its engine waits meanwhile, so what is done to all of it is done in float32 and
without sorting; only what is kept is looked at closely.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from service.decoding.errors import check_number
from service.engine.interface import Sampling

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
_FIRST_EDGE: Final = 1 / 16  # of the heaviest weight: what is looked at first for a nucleus
_BLOCK: Final = 256
_GROWTH: Final = 1 / 4  # of that edge, each time the nucleus is larger


def sample(log_probs: Floats, sampling: Sampling, position: int) -> int:
    """Choose a token: temperature first, then top-k, then top-p (Holtzman et al. 2020).

    Args:
        log_probs: (V,), natural log.
        sampling: How; ties go to the lower id.
        position: Of the token in the answer, counted from 0; names the noise.

    Raises:
        NotANumber: The model gave NaN.
    """
    best = log_probs.max()
    check_number(float(best))
    if sampling.temperature == 0:
        return int(log_probs.argmax())
    kept = None  # all
    if 0 < sampling.top_k < len(log_probs):
        kept = _largest(log_probs, sampling.top_k)
        log_probs = log_probs[kept]
    weights = log_probs - best
    weights *= np.float32(1 / sampling.temperature)
    np.exp(weights, out=weights)  # not normalised; the largest is 1
    if sampling.top_p < 1:
        nucleus = _nucleus(weights, sampling.top_p)
        kept, weights = nucleus if kept is None else kept[nucleus], weights[nucleus]
    place = _draw(weights, noise(sampling.seed, position))
    return place if kept is None else int(kept[place])


def sample_from_top(top_log_probs: Floats, top_tokens: Ids, sampling: Sampling, position: int) -> tuple[int, float]:
    """Choose as `sample` does, of the best alone, which must be at least `sampling.top_k`.

    Args:
        top_log_probs: (k,), best first, ties by id.
        top_tokens: (k,) their ids.
        sampling: How.
        position: As in `sample`.

    Returns:
        The token, the same that `sample` draws from the whole row, and its log-probability.
    """
    tokens = top_tokens[: sampling.top_k]
    order = tokens.argsort()  # as in the whole row, so that the noise points to the same token
    log_probs = top_log_probs[: sampling.top_k][order]
    place = sample(log_probs, sampling, position)
    return int(tokens[order[place]]), float(log_probs[place])


def noise(seed: int, position: int) -> float:
    """A number in [0, 1), uniform over positions of one seed and over seeds (uint64) at one position."""
    raw = np.random.Philox(key=seed, counter=position).random_raw()
    return (int(raw) >> 11) * 2.0**-53


def _draw(weights: Floats, at: float) -> int:
    """The place whose share of the line from 0 to the sum of the weights holds the point `at` times that sum.

    First the block, then the place in it: a running sum over everything would cost ten times as much.
    """
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64).cumsum()
    point = at * float(blocks[-1])
    block = _share(blocks, point)
    start = block * _BLOCK
    before = float(blocks[block - 1]) if block else 0.0
    return start + _share(weights[start : start + _BLOCK].cumsum(dtype=np.float64), point - before)


def _share(cumulative: npt.NDArray[np.float64], point: float) -> int:
    """The first place whose running sum is above the point, and of weight above 0 where rounding points beyond all."""
    last = cumulative.searchsorted(cumulative[-1], side="left")
    return int(min(cumulative.searchsorted(point, side="right"), last))


def _largest(values: Floats, count: int) -> Ids:
    """Places of the `count` largest values, ascending; ties at the edge go to lower places."""
    if count * _BLOCK > len(values):
        return _largest_of_few(values, count)
    # At least `count` values are as large as the largest of as many blocks: what is smaller is out of the question.
    best_of_blocks = np.maximum.reduceat(values, np.arange(0, len(values), _BLOCK))
    candidates = np.flatnonzero(values >= np.partition(best_of_blocks, -count)[-count])
    return candidates[_largest_of_few(values[candidates], count)]


def _largest_of_few(values: Floats, count: int) -> Ids:
    edge = np.partition(values, -count)[-count]
    kept = values > edge
    at_edge = np.flatnonzero(values == edge)[: count - int(kept.sum())]
    kept[at_edge] = True
    return np.flatnonzero(kept)


def _nucleus(weights: Floats, top_p: float) -> Ids:
    """Places of the fewest weights, heaviest first, whose share of all weight is at least top_p; ascending.

    Those above an edge are the heaviest there are, so only they need sorting once they weigh enough; the edge is
    lowered until they do.
    """
    wanted = top_p * float(weights.sum(dtype=np.float64))
    edge = _FIRST_EDGE
    while True:
        heavy = np.flatnonzero(weights >= edge)
        given = weights[heavy]
        if len(heavy) == len(weights) or float(given.sum(dtype=np.float64)) >= wanted:
            break
        edge = edge * _GROWTH if edge > 1e-30 else 0.0
    reached = np.sort(given)[::-1].cumsum(dtype=np.float64) >= wanted
    count = int(reached.argmax()) + 1 if reached.any() else len(given)  # rounding may keep the sum below
    return heavy[_largest_of_few(given, count)]
