"""Rows of different lengths in one flat array, and their padding into a batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Integer rows, one after another.

    Args:
        flat: All values, (sum of lengths,), int32.
        starts: Where each row begins, (rows,), int64.
        lengths: Values of each row, (rows,), int64.
    """

    flat: npt.NDArray[np.int32]
    starts: Ints
    lengths: Ints

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> "Ragged":
        """Copy rows in."""
        parts = [np.asarray(row, dtype=np.int32) for row in rows]
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64) if parts else lengths
        return cls(np.concatenate(parts) if parts else np.empty(0, np.int32), starts, lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, i: int) -> npt.NDArray[np.int32]:
        """One row, (length,)."""
        return self.flat[self.starts[i] : self.starts[i] + self.lengths[i]]

    def padded(self, rows: Ints, fill: int = 0, width: int | None = None) -> Ints:
        """Gather rows into a rectangle.

        Args:
            rows: Which rows, any shape (...).
            fill: What stands past the end of a row.
            width: Columns; None: as many as the longest of these rows has, at least 1.

        Returns:
            (..., width), int64.
        """
        lengths = self.lengths[rows]
        columns = np.arange(width if width is not None else max(1, int(lengths.max(initial=1))))
        inside = columns < lengths[..., None]  # (..., width)
        places = np.where(inside, self.starts[rows][..., None] + columns, 0)
        return np.where(inside, self.flat[places] if len(self.flat) else 0, fill).astype(np.int64)
