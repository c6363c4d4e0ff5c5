"""Which places of a row are kept: the largest, or the fewest that weigh enough. Neither sorts the row.

A row is as long as the vocabulary; what is done to all of it is a comparison or a sum, and only what lies around the
edge is looked at closely.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
_BIN_SHIFT: Final = 21  # leaves the exponent and two bits of the mantissa: four bins an octave
_BLOCKS_A_PLACE: Final = 4  # blocks for each of the largest values: few share one then
_SMALLEST_BLOCK: Final = 16


def largest(values: Floats, count: int) -> Ids:
    """Places of the `count` largest values, ascending; ties at the edge go to lower places.

    Args:
        values: (n,), n >= count.
        count: At least 1.
    """
    block = len(values) // (count * _BLOCKS_A_PLACE)
    if block < _SMALLEST_BLOCK:
        return _largest_of_few(values, count)
    # At least `count` values are as large as the largest of as many blocks: what is smaller is out of the question.
    best_of_blocks = np.maximum.reduceat(values, np.arange(0, len(values), block))
    candidates = np.flatnonzero(values >= np.partition(best_of_blocks, -count)[-count])
    return candidates[_largest_of_few(values[candidates], count)]


def nucleus(weights: Floats, top_p: float) -> Ids:
    """Places of the fewest weights, heaviest first, whose share of all weight is at least top_p; ascending.

    A histogram over the leading bits of the floats, whose order is that of the numbers, says around which weight the
    edge lies; only what falls in that bin is sorted.

    Args:
        weights: (n,), not negative, not all 0.
        top_p: Above 0, at most 1.
    """
    bins = weights.view(np.int32) >> _BIN_SHIFT
    masses = np.bincount(bins, weights=weights)
    running = masses[::-1].cumsum()  # of each bin and all that are heavier
    wanted = top_p * float(running[-1])
    from_top = int(running.searchsorted(wanted))
    at_edge = len(masses) - 1 - from_top
    before = float(running[from_top - 1]) if from_top else 0.0
    band = np.sort(weights[bins == at_edge])[::-1]
    reached = band.cumsum(dtype=np.float64) + before >= wanted
    count = int(reached.argmax()) + 1 if reached.any() else len(band)  # rounding may keep the sum below
    return _from(weights, band[count - 1], int(np.count_nonzero(bins > at_edge)) + count)


def _largest_of_few(values: Floats, count: int) -> Ids:
    return _from(values, np.partition(values, -count)[-count], count)


def _from(values: Floats, smallest: np.float32, count: int) -> Ids:
    """Places of the `count` largest values, of which `smallest` is the last."""
    kept = np.flatnonzero(values >= smallest)
    surplus = len(kept) - count
    if surplus:  # of those that equal it, the later
        equal = np.flatnonzero(values[kept] == smallest)
        kept = np.delete(kept, equal[len(equal) - surplus :])
    return kept
