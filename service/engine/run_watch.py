"""Ends runs that take too long: what callers send may keep the loops of an imported graph going for ever."""

import threading
import time
from collections.abc import Callable
from typing import Final

_LOOK_S: Final = 0.5  # between looks, at most
_AGAIN_S: Final = 0.02  # between looks at a run that has had its time and goes on
_JOIN_S: Final = 5.0


class RunWatch:
    """One thread that knows of the runs under way and until when each may go on.

    Args:
        name: Of the model.
        end_run: Ends the run in a lane; called again at each look until that run is over, as a run that has only just
            begun may not be there to be ended yet.
        clock: Seconds.
    """

    def __init__(self, name: str, end_run: Callable[[int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._end_run, self._clock = end_run, clock
        self._until_s: dict[int, float] = {}  # by lane
        self._lock = threading.Lock()  # with it, a run that is known is under way: none after it is ended for it
        self._closed = False
        self._stirred = threading.Event()  # a run has begun that is over before the next look
        self._thread = threading.Thread(target=self._live, name=f"watch-{name}", daemon=True)
        self.hurried = False

    def begin(self, lane: int, limit_s: float) -> None:
        """Note that a run begins in a lane, and how long it may take."""
        with self._lock:
            self._until_s[lane] = self._clock() + limit_s
        if limit_s < _LOOK_S:
            self._stirred.set()

    def end(self, lane: int) -> None:
        """Note that the run in a lane is over."""
        with self._lock:
            del self._until_s[lane]

    def hurry(self) -> None:
        """End all runs, from now on."""
        self.hurried = True
        self.look()

    def look(self) -> None:
        """End the runs that have had their time."""
        with self._lock:
            now = self._clock()
            for lane, until_s in self._until_s.items():
                if self.hurried or now > until_s:
                    self._end_run(lane)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._closed = True
        self._stirred.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _live(self) -> None:
        while not self._closed:
            self._stirred.wait(self._wait_s())
            self._stirred.clear()
            self.look()

    def _wait_s(self) -> float:
        """Until the next look: when the first run has had its time."""
        with self._lock:
            first_s = min(self._until_s.values(), default=float("inf"))
            return min(_LOOK_S, max(_AGAIN_S, first_s - self._clock()))
