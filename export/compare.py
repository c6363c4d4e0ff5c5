"""How outputs of a graph are held against those of the reference."""

from collections.abc import Iterator, Mapping

import numpy as np

from export.backend import Array


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
    """The largest absolute difference; infinite where shapes or types differ or a value is not a number.

    Args:
        got: Any shape.
        want: The same shape and type.
        exact: For bit identity: differing bits count even where the values are equal (the sign of zero).
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if got.size == 0:
        return 0.0
    if got.dtype.kind != "f":
        return float(np.abs(got - want).max())
    largest = float(_apart(got, want).max())
    if np.isnan(largest):
        return float("inf")
    if exact and largest == 0 and got.tobytes() != want.tobytes():
        return float(np.finfo(np.float32).smallest_subnormal)
    return largest


def rounding(single: Array, double: Array) -> float:
    """How far single precision is from double, at most; 0 where that cannot be said, so that it excuses nothing.

    Args:
        single: Float32, any shape.
        double: The same in float64.
    """
    if single.size == 0:
        return 0.0
    largest = float(_apart(single, double).max())
    return largest if np.isfinite(largest) else 0.0


def _apart(left: Array, right: Array) -> Array:
    """Absolute differences in float64; infinities of one sign are equal, though their difference is not a number."""
    with np.errstate(invalid="ignore"):
        return np.where(left == right, 0.0, np.abs(left.astype(np.float64) - right.astype(np.float64)))
