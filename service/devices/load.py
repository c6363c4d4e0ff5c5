"""What a device has to do, in seconds by its own measured pace: new work goes where there is least."""

from enum import IntEnum
from typing import Final

from service.engine.pace import Pace

_FIRST_WORK_S: Final = 0.002  # before any was seen
_FIRST_STEP_S: Final = 0.0002


class Kind(IntEnum):
    """What of a request counts as load."""

    WORK = 0
    STEP = 1
    OTHER = 2  # takes no run


class Load:
    """Counts the unanswered requests of one device. Not thread-safe."""

    def __init__(self) -> None:
        self._num_unanswered = [0, 0, 0]
        self._num_finished = [0, 0, 0]  # since the last `note`
        self._paces = (Pace(_FIRST_WORK_S), Pace(_FIRST_STEP_S))

    def begin(self, kind: Kind, now: float) -> None:
        """Count a request that was submitted at time `now`, in seconds."""
        self._num_unanswered[kind] += 1
        if kind != Kind.OTHER:
            self._paces[kind].work(now)

    def end(self, kind: Kind, finished: bool) -> None:
        """Count it no more; whether it was `finished` tells of the pace."""
        self._num_unanswered[kind] -= 1
        self._num_finished[kind] += finished

    def note(self, now: float) -> None:
        """See how fast those were that ended together at time `now`."""
        for kind, pace in enumerate(self._paces):
            pace.note(self._num_finished[kind], now)
            self._num_finished[kind] = 0
            if self._num_unanswered[kind] == 0:
                pace.rest()

    @property
    def num_unanswered(self) -> int:
        """Requests without an end."""
        return sum(self._num_unanswered)

    @property
    def wait_s(self) -> float:
        """When a request for new work that came now would be done, by the pace, in seconds from now."""
        return self._paces[0].wait_s(self._num_unanswered[0] + 1) + self._paces[1].wait_s(self._num_unanswered[1])
