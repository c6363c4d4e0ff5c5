"""Who may use the GPU while a run is captured: nobody else.

ONNX Runtime captures in CUDA's global mode. An allocation or a copy by another thread of the process, for another
model even, would spoil the capture, or fail itself. So whatever uses a GPU goes through one gate: many at a time, or a
capture alone. What gives memory back goes through it too. Python may say at any time, on any thread, that nobody holds
some memory any more, and cannot be made to wait: it is done at once if nobody is inside, or else noted for one who is.

A capture that waits keeps those out who come after it, or it would wait for ever. But one that waits for a run of an
hour, or for a model that is being opened, must not stop all other models: it keeps them out for a moment, and if that
was in vain, captures keep nobody out for a while and go through only when nobody is inside.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from service.runtime.errors import RunnerError, first_line

_PATIENCE_S: Final = 120.0  # a capture takes no more than a second or two unless something hangs
_PRESS_S: Final = 0.2  # for which a capture that waits keeps others out: dozens of runs as they are served
_PAUSE_S: Final = 5.0  # for which, if that was in vain, captures keep nobody out
_log = logging.getLogger(__name__)


class NoTurn(RunnerError):
    """Others did not leave the GPU to a capture; nothing was tried, and later it may well go."""


class Gate:
    """See the module docstring. Nobody goes through it twice at a time.

    Args:
        patience_s: Seconds that anybody waits for a capture.
        press_s: Seconds for which a capture that waits keeps others out.
        pause_s: Seconds for which captures keep nobody out after that was in vain.
    """

    def __init__(self, patience_s: float = _PATIENCE_S, press_s: float = _PRESS_S, pause_s: float = _PAUSE_S) -> None:
        self._patience_s, self._press_s, self._pause_s = patience_s, press_s, pause_s
        self._changed = threading.Condition()
        self._inside = 0
        self._capturing = False  # or keeping others out
        self._press_from = 0.0  # by the clock
        self._later: deque[Callable[[], Any]] = deque()  # needs no lock

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Go through beside others.

        Raises:
            RunnerError: A capture did not come to an end.
        """
        with self._changed:
            if self._capturing and not self._changed.wait_for(lambda: not self._capturing, self._patience_s):
                raise RunnerError(f"the GPU: expected a capture to end within {self._patience_s:.0f} s, got no turn")
            self._inside += 1
        try:
            self._tidy()
            yield
        finally:
            self._go_out()

    @contextlib.contextmanager
    def alone(self, wait_s: float = 0.0) -> Iterator[None]:
        """Go through when nobody is inside, and keep others out.

        Args:
            wait_s: Seconds to wait in nobody's way, if others do not come out in a moment.

        Raises:
            NoTurn: There was no time when nobody was inside.
        """
        with self._changed:
            self._await_turn(wait_s)
        try:
            yield
        finally:
            with self._changed:
                self._leave()

    def later(self, action: Callable[[], Any]) -> None:
        """Have something called, now or by somebody who goes through beside others; from any thread, at any time."""
        self._later.append(action)
        # Not to be waited for: this thread may be collecting garbage, with who knows which locks held.
        if self._changed.acquire(blocking=False):
            try:
                if self._capturing or self._inside:
                    return
                self._inside += 1
            finally:
                self._changed.release()
            self._go_out()

    def _go_out(self) -> None:
        while True:
            self._tidy()
            with self._changed:
                if not self._later:  # or else something came meanwhile, that nobody might see to
                    self._inside -= 1
                    if not self._inside:
                        self._changed.notify_all()
                    return

    def _tidy(self) -> None:
        while self._later:
            try:
                action = self._later.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                action()
            except Exception as error:  # of many types
                _log.warning("the GPU: what nobody holds was not given back: %s", first_line(error))

    def _await_turn(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while not self._take_turn():
            now = time.monotonic()
            if now >= end:
                raise NoTurn("the GPU: expected a moment without other runs, to capture in, got none")
            if now < self._press_from:
                self._changed.wait(min(end, self._press_from) - now)

    def _take_turn(self) -> bool:
        """Go in now, or after a moment in which others are kept out; another capture ends soon in any case."""
        if not self._changed.wait_for(lambda: not self._capturing, self._patience_s):
            return False
        if self._inside and time.monotonic() < self._press_from:
            return False
        self._capturing = True
        if self._changed.wait_for(lambda: not self._inside, self._press_s):
            return True
        self._leave()
        self._press_from = time.monotonic() + self._pause_s
        return False

    def _leave(self) -> None:
        self._capturing = False
        self._changed.notify_all()


GATE: Final = Gate()  # of the process: the mode does not ask which GPU
