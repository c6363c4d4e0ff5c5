"""Who holds which row of the state pool.

Every hold has a generation, so that a late release (a cancel that crosses a finish, an idle timer, a retry) is caught
as the bug it is and never takes the row from its next holder.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

INITIAL_SLOT: Final = 0  # holds the initial state; only ever read
SCRATCH_SLOT: Final = 1  # takes the writes of padding; never read
NUM_RESERVED: Final = 2


class StaleSlot(Exception):
    """A slot was released by somebody who no longer holds it: a bug of ours."""


class Slot(NamedTuple):
    """A hold on one row, from `allocate` to `free`."""

    row: int
    generation: int


class SlotTable:
    """Hands out rows of the state pool.

    Args:
        num_slots: Rows of the pool, the two reserved ones included.
    """

    def __init__(self, num_slots: int) -> None:
        if num_slots < NUM_RESERVED:
            raise ValueError(f"num_slots: expected at least {NUM_RESERVED}, got {num_slots}")
        self.num_usable = num_slots - NUM_RESERVED
        self._generations = [0] * num_slots  # of the hold on each row, or of the next one
        # The last one freed goes out first: its row is the likeliest to be in cache.
        self._free = list(range(num_slots - 1, NUM_RESERVED - 1, -1))

    @property
    def num_free(self) -> int:
        """Rows that can be allocated now."""
        return len(self._free)

    def allocate(self, count: int) -> tuple[Slot, ...] | None:
        """Take `count` rows, or none of them (None) where fewer are free."""
        if count > len(self._free):
            return None
        rows = [self._free.pop() for _ in range(count)]
        return tuple(Slot(row, self._generations[row]) for row in rows)

    def free(self, slots: Iterable[Slot]) -> None:
        """Give rows back.

        Raises:
            StaleSlot: A hold has ended before; its row is left alone.
        """
        for slot in slots:
            if self._generations[slot.row] != slot.generation:
                raise StaleSlot(f"slot {slot.row}: expected generation {self._generations[slot.row]}, got {slot}")
            self._generations[slot.row] += 1
            self._free.append(slot.row)
