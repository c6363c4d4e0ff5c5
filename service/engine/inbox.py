"""The bounded door between the threads that ask and the engine thread that answers."""

import threading
from collections import deque
from collections.abc import Callable

from service.engine.interface import CloseSession, Request, RequestId, StepSession
from service.errors import Overloaded, ServiceError


class Inbox:
    """Requests and cancels on their way in. All methods are safe from any thread.

    New work and steps of open sessions are bounded apart, so that a crowd of one cannot lock the other out. Closes
    are always taken: they free something, and there is one a session.

    Args:
        max_new: Most requests for new work that wait, in here and in the engine.
        max_steps: Most unfinished session steps.
        retry_after_s: Tells when to come back, given how many wait, in seconds.
    """

    def __init__(self, max_new: int, max_steps: int, retry_after_s: Callable[[int], float]) -> None:
        self._max_new, self._max_steps = max_new, max_steps
        self._retry_after_s = retry_after_s
        self._changed = threading.Condition()
        self._requests: deque[Request] = deque()
        self._cancels: deque[RequestId] = deque()
        self._new_here = self._steps_here = 0
        # Taken, and still waiting in the engine. Only the engine's thread writes this, always whole: no lock.
        self._inside = (0, 0)  # new work, steps
        self._closed: Callable[[], ServiceError] | None = None
        self._stirred = False  # whether the next `take` must not wait, though nothing arrived

    def put(self, request: Request) -> None:
        """Admit a request or refuse it at once.

        Raises:
            Overloaded: Too many wait.
            ServiceError: What `close` was told to say.
        """
        with self._changed:
            is_step = isinstance(request, StepSession)
            is_close = isinstance(request, CloseSession)
            if self._closed is not None:
                raise self._closed()
            if is_step:
                if self._steps_here + self._inside[1] >= self._max_steps:
                    self._refuse(f"{self._max_steps} session steps are unanswered", self._max_steps)
                self._steps_here += 1
            elif not is_close:
                if self._new_here + self._inside[0] >= self._max_new:
                    self._refuse(f"{self._max_new} requests are waiting", self._max_new)
                self._new_here += 1
            self._requests.append(request)
            self._changed.notify()

    def cancel(self, request: RequestId) -> None:
        """Pass a cancel on; at most one an admitted request is kept."""
        with self._changed:
            self._cancels.append(request)
            self._changed.notify()

    def take(self, wait_s: float) -> tuple[list[Request], list[RequestId]]:
        """Take everything, requests before cancels of them; wait for something at most `wait_s` seconds."""
        with self._changed:
            if not (self._requests or self._cancels or self._stirred) and wait_s > 0:
                self._changed.wait(wait_s)
            self._stirred = False
            requests, cancels = list(self._requests), list(self._cancels)
            self._requests.clear()
            self._cancels.clear()
            # Until `set_backlog` says better, all that was taken counts as waiting.
            self._inside = (self._inside[0] + self._new_here, self._inside[1] + self._steps_here)
            self._new_here = self._steps_here = 0
            return requests, cancels

    def set_backlog(self, num_new: int, num_steps: int) -> None:
        """Say how many of those taken still wait in the engine."""
        self._inside = (num_new, num_steps)

    def close(self, reason: Callable[[], ServiceError]) -> None:
        """Refuse everything from now on, each time with a new `reason()`; the first one told stands."""
        with self._changed:
            self._closed = self._closed or reason
            self._stirred = True
            self._changed.notify()

    def __len__(self) -> int:
        return len(self._requests)

    def _refuse(self, which: str, waiting: int) -> None:
        raise Overloaded(f"the model is at its limit: {which}", self._retry_after_s(waiting))
