"""Ends runs that take too long: what callers send may keep the loops of an imported graph going for ever."""

import threading
import time
from collections.abc import Callable
from typing import Final

_LOOK_S: Final = 0.5  # between looks
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
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"watch-{name}", daemon=True)
        self.hurried = False

    def begin(self, lane: int, limit_s: float) -> None:
        """Note that a run begins in a lane, and how long it may take."""
        with self._lock:
            self._until_s[lane] = self._clock() + limit_s

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
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _live(self) -> None:
        while not self._closed.wait(_LOOK_S):
            self.look()
