"""How fast the engine works, for honest admission and an honest hint of when to come back."""

from typing import Final

_WEIGHT: Final = 0.1  # of the newest observation
_MOST_GROWTH: Final = 4.0  # of what an observation may say, against what is taken for true
_ALWAYS_BELIEVED_S: Final = 0.05
_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 30.0


class Pace:
    """A moving average of the seconds that one of something takes of a busy engine.

    Args:
        seconds_each: What is taken for true before anything was seen.
    """

    def __init__(self, seconds_each: float) -> None:
        self._seconds_each = seconds_each
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
            # Several that end together are as many observations.
            weight = 1 - (1 - _WEIGHT) ** min(count, 32)
            # A pause of the whole machine is nobody's service time: what is truly slower is seen to be so again.
            most_s = max(_MOST_GROWTH * self._seconds_each, _ALWAYS_BELIEVED_S)
            seen_s = min((now - self._since_s) / count, most_s)
            self._seconds_each += weight * (seen_s - self._seconds_each)
        self._since_s = now

    def wait_s(self, waiting: int) -> float:
        """How long the last of those waiting will wait, in seconds."""
        return waiting * self._seconds_each


def retry_after_s(wait_s: float) -> float:
    """When about half of those will have been served who keep one waiting so long, between 0.05 and 30 seconds."""
    return min(_LONGEST_S, max(_SHORTEST_S, wait_s / 2))
