"""How outputs of a graph are held against those of the reference."""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from export.backend import Array

# Up to here differences are absolute; a limit of 1e-5 at 10 is about ten roundings of float32.
LARGE: Final = 10.0


def pairs(got: Mapping[str, Array], want: Mapping[str, Array]) -> Iterator[tuple[str, Array, Array]]:
    """Match the outputs of a graph with those of the reference, in the graph's terms.

    The best few have no counterpart in the reference: their log-probabilities are held against the best of its whole
    distribution, and their ids against what it gives to the same ids. So a tie may come in either order, and nothing
    else may.
    """
    for tensor, values in got.items():
        if tensor == "top_log_probs":
            yield tensor, values, -np.sort(-want["log_probs"], axis=-1)[..., : values.shape[-1]]
        elif tensor == "top_tokens":
            distinct = np.apply_along_axis(lambda ids: len(set(ids)) == len(ids), -1, values)
            at_tokens = np.take_along_axis(want["log_probs"], values, axis=-1)
            yield tensor, np.where(distinct[..., None], got["top_log_probs"], np.nan), at_tokens
        else:
            yield tensor, values, want[tensor]


def difference(got: Array, want: Array, exact: bool = False) -> float:
    """The largest difference; infinite where shapes or types differ or a value is not a number.

    Absolute, but of a value v beyond `LARGE` it is counted per |v| / `LARGE`: rounding alone is proportional to the
    value, and cells of an LSTM and log-probabilities of unlikely tokens go far beyond where an absolute limit of 1e-5
    is more than a few roundings.

    Args:
        got: Any shape.
        want: The same shape and type.
        exact: For bit identity: no such scale, and differing bits count even where the values are equal (the sign of
            zero).
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if got.size == 0:
        return 0.0
    if got.dtype.kind != "f":
        return float(np.abs(got - want).max())
    with np.errstate(invalid="ignore"):
        scale = 1.0 if exact else np.maximum(1.0, np.abs(want.astype(np.float64)) / LARGE)
        # Infinities of one sign are equal, though their difference is not a number.
        apart = np.where(got == want, 0.0, np.abs(got.astype(np.float64) - want) / scale)
    largest = float(apart.max())
    if np.isnan(largest):
        return float("inf")
    if exact and largest == 0 and got.tobytes() != want.tobytes():
        return float(np.finfo(np.float32).smallest_subnormal)
    return largest
