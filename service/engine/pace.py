"""How fast the engine works, for honest admission and an honest hint of when to come back."""

import math
from typing import Final

_MEMORY_S: Final = 0.5  # of busy time; what was seen so long ago counts for a third
_FIRST: Final = 4  # ends, for which what is taken for true at first counts
_MOST_GROWTH: Final = 4.0  # of what an observation may say, against what is taken for true
_ALWAYS_BELIEVED_S: Final = 0.05
_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 30.0


class Pace:
    """The seconds that one of something takes of a busy engine: busy time over what ended in it, of late.

    Things end many at a time, a batch a few milliseconds after another one and then none for long, so that the time
    between two ends says little: time and ends are summed up, and both fade alike.

    Args:
        seconds_each: What is taken for true before anything was seen.
    """

    def __init__(self, seconds_each: float) -> None:
        self._busy_s, self._ended = _FIRST * seconds_each, float(_FIRST)
        self._since_s: float | None = None  # the last end, or when there was something to do again; None: resting

    def work(self, now: float) -> None:
        """Say that there is something to do at time `now`, in seconds."""
        if self._since_s is None:
            self._since_s = now

    def rest(self) -> None:
        """Say that there is nothing to do: what passes until `work` is nobody's service time."""
        self._since_s = None

    def note(self, count: int, now: float) -> None:
        """Count those that ended at time `now`, in seconds."""
        if not count:
            return
        if self._since_s is not None:
            # A pause of the whole machine is nobody's service time: what is truly slower is seen to be so again.
            most_s = count * max(_MOST_GROWTH * self._busy_s / self._ended, _ALWAYS_BELIEVED_S)
            took_s = min(now - self._since_s, most_s)
            faded = math.exp(-took_s / _MEMORY_S)
            self._busy_s = faded * self._busy_s + took_s
            self._ended = faded * self._ended + count
        self._since_s = now

    def wait_s(self, waiting: int) -> float:
        """How long the last of those waiting will wait, in seconds."""
        return waiting * (self._busy_s / self._ended)


def retry_after_s(wait_s: float) -> float:
    """When about half of those will have been served who keep one waiting so long, between 0.05 and 30 seconds."""
    return min(_LONGEST_S, max(_SHORTEST_S, wait_s / 2))
