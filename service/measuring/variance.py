"""How far apart answers are that should be the same: as rounding has it, or because rows of a batch meet."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from export.manifest import DType

Array = npt.NDArray[Any]
# Relative to how large numbers are at a place: a hundred times what an import takes for rounding.
_ROUNDING: Final[dict[DType, float]] = {"float64": 1e-3, "float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
_TF32: Final[DType] = "float16"  # has as many bits of a fraction as what TF32 makes of float32
_SMALL: Final = 0.01  # relative to the largest number, at most 1: what is smaller may be what cancelled out


class Variance(NamedTuple):
    """What a run gives, or leaves in a pool, that depends on who is in the batch.

    Args:
        what: Which graph, as the operator reads it.
        name: Of the output, or `state:` or `memory:` and that of the pool.
        sizes: Rows of the batches in which it was seen, growing.
        most: Largest difference; infinity where a number is none, or there are more or fewer.
        is_far: Whether it is more than rounding explains.
    """

    what: str
    name: str
    sizes: tuple[int, ...]
    most: float
    is_far: bool

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.sizes))
        return f"{self.what}: {self.name} differs in batches of {sizes} by up to {self.most:g}"


def difference(
    dtype: DType, alone: Array, got: Array, others: Sequence[Array], tf32: bool = False
) -> tuple[float, bool]:
    """Compare what a row gives in company with what it gives alone.

    How large numbers are is looked at place by place, over several rows: one of a thousand million does not hide that
    those beside it differ.

    Args:
        dtype: Of the tensor.
        alone: What the row gives by itself.
        got: What it gives in company.
        others: What some rows give by themselves.
        tf32: Whether products of float32 were made of factors that were rounded to TF32.

    Returns:
        The largest difference, and whether it is more than rounding explains. What is no number with a fraction does
        not round.
    """
    if alone.shape != got.shape:
        return float("inf"), True
    if dtype == "string":
        return 0.0, alone.tolist() != got.tolist()
    first, second = _wide(dtype, alone), _wide(dtype, got)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.where(same, 0.0, np.abs(first - second)), nan=np.inf, posinf=np.inf)
    most = float(apart.max(initial=0.0))
    if dtype not in _ROUNDING:
        return most, most > 0
    like = [np.abs(_wide(dtype, other)) for other in others if other.shape == alone.shape]
    sizes = np.max([np.where(np.isfinite(array), array, 0.0) for array in like], axis=0)
    least = _SMALL * min(1.0, float(sizes.max(initial=0.0)))
    rounding = _ROUNDING[_TF32 if tf32 and dtype == "float32" else dtype]
    return most, bool((apart > rounding * np.maximum(sizes, least)).any())


def _wide(dtype: DType, array: Array) -> npt.NDArray[np.float64]:
    if dtype == "bfloat16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)
