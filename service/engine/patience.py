"""How long a run of an imported model may take, once some were ended for their time.

An endless request takes all of the time that it is given, and those behind it wait as long. So after one, runs get a
little more than what runs usually take; who needs more is tried again by itself, with more and more time, out of a
purse that fills slowly. Whatever callers send, the rest of the time is left to others.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from export.manifest import GraphKind

_SHORT: Final = 20.0  # times what a run usually takes
_SCANT: Final = 2.0  # the same, where many have had their short time already
_LEAST_S: Final = 0.05  # of a short time
_UNKNOWN: Final = 0.1  # of `max_run_s`, a short time where no run has come to an end so far
_UNKNOWN_S: Final = 1.0  # and the most of it
_MEMORY: Final = 0.9  # of the moving average of what runs take
_LONG: Final = 2.0  # times the average, that a run counts for at most
_LONG_S: Final = 0.005  # the same, however little the average is
_WARY: Final = 10.0  # times `max_run_s`, that no other run was ended
_PURSE: Final = 3.0  # times `max_run_s`, that slow runs may take one after the other
_PURSE_S: Final = 30.0  # and the most of it; the last of them may take its `max_run_s` still
_REFILL: Final = 0.1  # of the time that goes by


class Patience:
    """See the module docstring; safe from any thread.

    Args:
        max_run_s: Longest that a run may take.
        clock: Seconds.
    """

    def __init__(self, max_run_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_run_s, self._clock = max_run_s, clock
        self._usual_s: dict[GraphKind, float] = {}
        self._lock = threading.Lock()
        self._wary_until_s = self._filled_s = clock()
        self._purse_s = self._full_s = min(_PURSE * max_run_s, _PURSE_S)
        self._spending = False

    @property
    def wary(self) -> bool:
        """Whether a run was ended for its time lately."""
        return self._clock() < self._wary_until_s

    def beware(self) -> None:
        """Note that a run was ended for its time."""
        self._wary_until_s = self._clock() + _WARY * self._max_run_s

    def note(self, graph: GraphKind, took_s: float) -> None:
        """Note what a run took that came to its end. One that took far longer than others counts as a long one only."""
        usual_s = self._usual_s.get(graph, took_s)
        took_s = min(took_s, max(_LONG * usual_s, _LONG_S))
        self._usual_s[graph] = took_s + _MEMORY * (usual_s - took_s)

    def short_s(self, graph: GraphKind, many: bool = False) -> float:
        """A little more than what a run takes.

        Args:
            graph: What is run.
            many: Whether many runs have had their short time one after the other.
        """
        usual_s = self._usual_s.get(graph)
        if usual_s is None:
            return min(_UNKNOWN_S, max(_UNKNOWN * self._max_run_s, 2 * _LEAST_S), self._max_run_s)
        wanted_s = max(_LEAST_S, (_SCANT if many else _SHORT) * usual_s)
        return min(wanted_s, self._max_run_s)

    def open_purse(self) -> bool:
        """Whether slow requests may be run now; nobody else may until the purse is closed."""
        with self._lock:
            if self._spending or self._left_s() <= 0:
                return False
            self._spending = True
            return True

    def spend(self, took_s: float) -> bool:
        """Take out of the purse what a run took. Returns whether something is left."""
        with self._lock:
            self._purse_s = self._left_s() - took_s
            return self._purse_s > 0

    def close_purse(self) -> None:
        """Let others run slow requests."""
        with self._lock:
            self._spending = False

    def _left_s(self) -> float:
        now_s = self._clock()
        filled_s = self._purse_s + _REFILL * (now_s - self._filled_s)
        self._purse_s, self._filled_s = min(self._full_s, filled_s), now_s
        return self._purse_s
