"""Several arrays in one block of memory, so that one copy moves them all."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from service.runtime.device.memory import ALIGNMENT

Array = npt.NDArray[Any]
_SMALL: Final = 64  # rows up to which a size is twice the one before
_PARTS: Final = 8  # of a power of two, in which larger sizes are counted


class Place(NamedTuple):
    """Where an array lies in a block."""

    offset: int  # bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, block: npt.NDArray[np.uint8]) -> Array:
        """The array in a block that begins where the layout does."""
        return block[self.offset : self.offset + self.num_bytes].view(self.dtype).reshape(self.shape)


class Layout(NamedTuple):
    """Arrays one behind another, each aligned."""

    places: Mapping[str, Place]
    num_bytes: int

    def span(self, names: Collection[str]) -> tuple[int, int]:
        """The first byte and the one behind the last of some of the arrays; (0, 0) of none."""
        chosen = [self.places[name] for name in names]
        if not chosen:
            return 0, 0
        return min(place.offset for place in chosen), max(place.offset + place.num_bytes for place in chosen)


def lay_out(arrays: Mapping[str, tuple[npt.DTypeLike, Sequence[int]]]) -> Layout:
    """Place arrays in a block, the small ones first, so that some small ones lie close together.

    Args:
        arrays: By name, type and shape.
    """
    places: dict[str, Place] = {}
    end = 0
    unplaced = {name: Place(0, np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in arrays.items()}
    for name, place in sorted(unplaced.items(), key=lambda item: item[1].num_bytes):
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        places[name] = place._replace(offset=offset)
        end = offset + place.num_bytes
    return Layout(places, end)


def bucket(rows: int) -> int:
    """The rows that a batch is padded to: 1, 2, 4, 8, 16, 32, 64, then four sizes an octave.

    A GPU takes as long for 33 rows as for 64, but not for 513 as for 1,024.
    """
    octave = 1 << max(rows - 1, 0).bit_length()
    step = octave // _PARTS if octave > _SMALL else octave
    return -(-rows // step) * step


def buckets(most: int) -> list[int]:
    """All sizes that batches of up to `most` rows are padded to, the last one at most `most`."""
    sizes = [bucket(1)]
    while bucket(sizes[-1] + 1) <= most:
        sizes.append(bucket(sizes[-1] + 1))
    return sizes
