"""What an engine does on its own thread before it serves, for others to wait for."""

import threading
from collections.abc import Callable

Stop = Callable[[], bool]  # whether to leave the rest out


class WarmUp:
    """Runs some work once and knows when that is over.

    Args:
        work: Asks what it is given now and then, and ends early if that says so.
    """

    def __init__(self, work: Callable[[Stop], None]) -> None:
        self._work = work
        self._over = threading.Event()

    def run(self, stop: Stop) -> None:
        """Do it, on the thread that it is for."""
        try:
            self._work(stop)
        finally:
            self._over.set()

    def wait(self, most_s: float) -> bool:
        """Wait until it is over, however it went.

        Returns:
            Whether it was within so many seconds.
        """
        return self._over.wait(most_s)
