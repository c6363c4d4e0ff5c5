"""Seconds that may be spent, and whether they are."""

import time
from collections.abc import Callable


class Spent(Exception):
    """The time of a part is over: what would come now is not measured."""


class Budget:
    """Counts from when it is made.

    Args:
        seconds: How many there are.
        clock: What time is, in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began = clock()

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._began + self.seconds - self._clock())

    @property
    def used(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    def need(self, seconds: float) -> None:
        """See that so many are left.

        Raises:
            Spent: They are not.
        """
        if self.left < seconds:
            raise Spent(f"not measured: the {self.seconds:.0f} s of this part are spent")
