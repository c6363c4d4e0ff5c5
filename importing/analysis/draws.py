"""Random inputs that a model may take."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from importing.signature import Array, Value, zeros

_TEXTS: Final = ("", "a", "carry over", "tschüß", "日本")
# Of whole numbers that nothing is known of: what counts, indexes or chooses is small more often than not.
_SMALL: Final = 2


class Draws:
    """Draws inputs.

    Args:
        seed: Of the generator.
        ranges: By input of whole numbers, how many values from zero it may have.
    """

    def __init__(self, seed: int, ranges: Mapping[str, int]) -> None:
        self._generator = np.random.default_rng(seed)
        self._ranges = ranges

    def draw(self, value: Value, shape: tuple[int, ...], scale: float = 1.0) -> Array:
        """Draw a tensor of the input's type: floats of a normal distribution, `scale` wide; others whatever it is."""
        generator = self._generator
        if value.dtype == "string":
            return np.array(generator.choice(_TEXTS, size=shape), dtype=object).reshape(shape)
        if value.dtype == "bool":
            return np.asarray(generator.random(shape) < 0.5)
        if value.dtype == "bfloat16":
            # The upper half of a float32 is a bfloat16.
            drawn = np.asarray(generator.standard_normal(shape) * scale, dtype=np.float32)
            return (drawn.view(np.uint32) >> 16).astype(np.uint16)
        if value.dtype in ("float16", "float32", "float64"):
            return np.asarray(generator.standard_normal(shape) * scale, dtype=value.dtype)
        return np.asarray(generator.integers(0, self._ranges.get(value.name, _SMALL), shape), dtype=value.dtype)

    @staticmethod
    def zeros(value: Value, shape: tuple[int, ...]) -> Array:
        """Zeros of the input's type."""
        return zeros(value.dtype, shape)
