"""Who may use the GPU while a run is captured: nobody else.

ONNX Runtime captures in CUDA's global mode. An allocation or a copy by another thread of the process, for another
model even, would spoil the capture, or fail itself. So whatever uses a GPU goes through one gate: many at a time, or a
capture alone. A capture that waits is let through before those who come after it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from service.runtime.errors import RunnerError

_PATIENCE_S: Final = 120.0  # no run takes as long unless something hangs


class Gate:
    """See the module docstring. Nobody goes through it twice at a time.

    Args:
        patience_s: Seconds that somebody waits.
    """

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._inside = 0
        self._capturing = False  # or waiting for it

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Go through beside others.

        Raises:
            RunnerError: A capture did not come to an end.
        """
        with self._changed:
            if self._capturing:
                self._await(lambda: not self._capturing)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                if self._capturing:
                    self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Go through when nobody is inside, and keep others out.

        Raises:
            RunnerError: Somebody did not come out.
        """
        with self._changed:
            self._await(lambda: not self._capturing)
            self._capturing = True
            try:
                self._await(lambda: not self._inside)
            except RunnerError:
                self._leave()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._leave()

    def _leave(self) -> None:
        self._capturing = False
        self._changed.notify_all()

    def _await(self, condition: Callable[[], bool]) -> None:
        if not self._changed.wait_for(condition, self._patience_s):
            raise RunnerError(f"the GPU: expected it to be free within {self._patience_s:.0f} s, got no turn")


GATE: Final = Gate()  # of the process: the mode does not ask which GPU
