"""Who holds which rows of the attention memory.

A source of S positions takes ceil(S / 8) pages of 8 consecutive rows, anywhere in the pool: there is no fixed maximum
a request and no fragmentation. Page 0 is never handed out: its row 0 stays zero and pads reads, its row 1 is scratch
and takes the writes of padding.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

PAGE_ROWS: Final = 8
ZERO_ROW: Final = 0
SCRATCH_ROW: Final = 1


class StalePages(Exception):
    """Memory was released by somebody who no longer holds it: a bug of ours."""


class Memory:
    """A hold on the rows of one source, from `allocate` to `free`.

    Args:
        pages: Numbers of the pages.
        length: Source positions, S.
    """

    __slots__ = ("length", "pages", "rows")

    def __init__(self, pages: tuple[int, ...], length: int) -> None:
        self.pages = pages
        self.length = length
        starts = np.array(pages, dtype=np.int64)[:, None] * PAGE_ROWS
        self.rows: npt.NDArray[np.int64] = (starts + np.arange(PAGE_ROWS)).reshape(-1)[:length]  # (S,)


class MemoryPages:
    """Hands out rows of the attention memory.

    Args:
        num_rows: Rows of the pool; 0 for a model without attention. What does not fill a page is not used.
    """

    def __init__(self, num_rows: int) -> None:
        num_pages = num_rows // PAGE_ROWS
        self.num_usable_rows = max(0, num_pages - 1) * PAGE_ROWS
        self._free = list(range(num_pages - 1, 0, -1))
        self._held: set[int] = set()

    @property
    def num_free_rows(self) -> int:
        """Rows of the free pages."""
        return len(self._free) * PAGE_ROWS

    @staticmethod
    def num_pages(length: int) -> int:
        """Pages that a source of `length` positions takes."""
        return -(-length // PAGE_ROWS)

    def allocate(self, length: int) -> Memory | None:
        """Take the pages for `length` positions, or none (None) where too few are free."""
        count = self.num_pages(length)
        if count > len(self._free):
            return None
        pages = tuple(self._free.pop() for _ in range(count))
        self._held.update(pages)
        return Memory(pages, length)

    def free(self, memory: Memory) -> None:
        """Give the pages back.

        Raises:
            StalePages: They are not held; nothing was freed.
        """
        if not memory.pages or not self._held.issuperset(memory.pages):
            raise StalePages(f"pages {memory.pages}: expected all to be held")
        self._held.difference_update(memory.pages)
        self._free.extend(memory.pages)
        memory.pages = ()  # a second release is caught even where others hold the pages by then
