"""How fast the engine finishes requests, for an honest hint of when to come back."""

from collections.abc import Sequence
from typing import Final

from service.engine.interface import Event, TokensDecided

_WEIGHT: Final = 0.1  # of the newest observation
_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 30.0


class Pace:
    """A moving average of the seconds that a finished request takes of a busy engine."""

    def __init__(self) -> None:
        self._seconds_each = 0.01
        self._since_s: float | None = None  # the last end, or when there was something to do again; None: resting

    def work(self, now: float) -> None:
        """Say that there is something to do at time `now`, in seconds."""
        if self._since_s is None:
            self._since_s = now

    def rest(self) -> None:
        """Say that there is nothing to do: what passes until `work` is nobody's service time."""
        self._since_s = None

    def note(self, events: Sequence[Event], now: float) -> None:
        """Count the terminal events of a publishing at time `now`, in seconds."""
        finished = sum(not isinstance(event, TokensDecided) for event in events)
        if not finished:
            return
        if self._since_s is not None:
            self._seconds_each += _WEIGHT * ((now - self._since_s) / finished - self._seconds_each)
        self._since_s = now

    def retry_after_s(self, waiting: int) -> float:
        """When about half of those waiting will have been served, in seconds, between 0.05 and 30."""
        return min(_LONGEST_S, max(_SHORTEST_S, waiting * self._seconds_each / 2))
