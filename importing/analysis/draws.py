"""Random inputs that a model may take."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from importing.signature import Array, Value, has_number, is_float, zeros

_TEXTS: Final = ("", "a", "carry over", "tschüß", "日本")
# Of whole numbers that nothing is known of: what counts, indexes or chooses is small more often than not.
_SMALL: Final = 2
_WIDE: Final = 100  # of larger ones, times what floats are scaled by
_NOTHING: Final[Mapping[str, Sequence[float]]] = {}


class Draws:
    """Draws inputs.

    Args:
        seed: Of the generator.
        ranges: By input of whole numbers, how many values from zero it may have.
        compared: By input, numbers that the graph compares it with.
    """

    def __init__(
        self, seed: int, ranges: Mapping[str, int], compared: Mapping[str, Sequence[float]] = _NOTHING
    ) -> None:
        self._compared = compared
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

    def draw_unusual(self, value: Value, shape: tuple[int, ...], scale: float) -> Array:
        """Draw what is not near zero: floats that are positive, larger whole numbers, numbers that are compared with.

        Whole numbers stay in the range that is known of them, if any; it may be that the model does not take them.
        """
        generator = self._generator
        if value.dtype == "string" or value.dtype == "bool":
            return self.draw(value, shape)
        if value.dtype == "bfloat16":
            return np.asarray(self.draw(value, shape, scale) & 0x7FFF)  # without the sign
        if is_float(value.dtype):
            drawn = np.abs(self.draw(value, shape, scale))
        else:
            bounds, wide = np.iinfo(value.dtype), max(_SMALL, round(_WIDE * scale))
            least = 0 if value.name in self._ranges else max(int(bounds.min), -wide)
            most = min(int(bounds.max), self._ranges.get(value.name, wide) - 1)
            drawn = np.asarray(generator.integers(least, most, shape, endpoint=True), dtype=value.dtype)
        if numbers := [number for number in self._compared.get(value.name, ()) if has_number(value.dtype, number)]:
            drawn = np.where(generator.random(shape) < 0.25, generator.choice(numbers, shape), drawn)
        return np.asarray(drawn, dtype=value.dtype)

    @staticmethod
    def zeros(value: Value, shape: tuple[int, ...]) -> Array:
        """Zeros of the input's type."""
        return zeros(value.dtype, shape)
