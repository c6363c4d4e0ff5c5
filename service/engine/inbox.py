"""The bounded door between the threads that ask and the runner threads that answer."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from service.engine.interface import (
    AnyRequest,
    Decode,
    Generate,
    RequestId,
    RunSequence,
    RunTensors,
    StepSession,
    StepTensors,
)
from service.engine.pace import Pace, retry_after_s
from service.errors import DeadlineExceeded, Overloaded, ServiceError

_NEW_WORK: Final = (RunSequence, RunTensors, Decode, Generate)
_STEPS: Final = (StepSession, StepTensors)


class Inbox:
    """Requests and cancels on their way in. All methods are safe from any thread.

    New work and steps of open sessions are bounded apart, so that a crowd of one cannot lock the other out. What else
    is asked of sessions is always taken: it is bounded by the sessions' callers, and some of it frees something.

    Args:
        max_new: Most requests for new work that wait, in here and in the engine.
        max_steps: Most unfinished session steps.
        max_wait_s: Longest that new work or a step may have to wait, by its pace.
        pace: Of new work.
        step_pace: Of inputs of steps.
        clock: Seconds, on which deadlines are told.
    """

    def __init__(
        self,
        max_new: int,
        max_steps: int,
        max_wait_s: float,
        pace: Pace,
        step_pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_new, self._max_steps, self._max_wait_s = max_new, max_steps, max_wait_s
        self._pace, self._step_pace, self._clock = pace, step_pace, clock
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._num_asleep = 0
        self._requests: deque[AnyRequest] = deque()
        self._cancels: deque[RequestId] = deque()
        self._new_here = self._steps_here = self._inputs_here = 0
        # Taken, and still waiting in the engine. Only runner threads write this, always whole: no lock.
        self._inside = (0, 0, 0)  # new work, requests at sessions, inputs of steps
        self._closed: Callable[[], ServiceError] | None = None
        self._stirred = False  # whether a wait must end though nothing arrived
        self.num_refused = 0

    def put(self, request: AnyRequest) -> None:
        """Admit a request or refuse it at once.

        Raises:
            Overloaded: Too many wait, or for too long.
            DeadlineExceeded: It would have to wait beyond its deadline.
            ServiceError: What `close` was told to say.
        """
        with self._lock:
            if self._closed is not None:
                raise self._closed()
            if isinstance(request, _STEPS):
                self._admit_step(request)
            elif isinstance(request, _NEW_WORK):
                self._admit_new(request.deadline_s)
            self._requests.append(request)
            if self._num_asleep:
                self._arrived.notify()

    def _admit_step(self, request: StepSession | StepTensors) -> None:
        wait_s = self._step_pace.wait_s(self._inputs_here + self._inside[2])
        if self._steps_here + self._inside[1] >= self._max_steps:
            self._refuse(f"{self._max_steps} session steps are unanswered", wait_s)
        if wait_s > self._max_wait_s:
            self._refuse(f"a step would wait for {wait_s:.2g} s", wait_s)
        self._steps_here += 1
        self._inputs_here += request.num_steps

    def _admit_new(self, deadline_s: float | None) -> None:
        waiting = self._new_here + self._inside[0]
        wait_s = self._pace.wait_s(waiting)
        if waiting >= self._max_new:
            self._refuse(f"{self._max_new} requests are waiting", wait_s)
        if wait_s > self._max_wait_s:
            self._refuse(f"a request would wait for {wait_s:.2g} s", wait_s)
        if deadline_s is not None and self._clock() + wait_s >= deadline_s:
            raise DeadlineExceeded(f"expected a deadline later than the {wait_s:.2g} s that requests wait now")
        self._new_here += 1

    def cancel(self, request: RequestId) -> None:
        """Pass a cancel on; at most one an admitted request is kept."""
        with self._lock:
            self._cancels.append(request)
            if self._num_asleep:
                self._arrived.notify()

    def take(self) -> tuple[list[AnyRequest], list[RequestId]]:
        """Take everything, requests before cancels of them; never waits."""
        if not (self._requests or self._cancels):
            return [], []
        with self._lock:
            requests, cancels = list(self._requests), list(self._cancels)
            self._requests.clear()
            self._cancels.clear()
            # Until `set_backlog` says better, all that was taken counts as waiting.
            new, steps, inputs = self._inside
            self._inside = (new + self._new_here, steps + self._steps_here, inputs + self._inputs_here)
            self._new_here = self._steps_here = self._inputs_here = 0
            return requests, cancels

    def wait(self, wait_s: float) -> bool:
        """Wait until something is here, `stir` or `close` was called, or `wait_s` seconds have passed.

        Returns:
            Whether it was not the time that ended the wait.
        """
        with self._lock:
            if not (self._requests or self._cancels or self._stirred or self._closed):
                self._num_asleep += 1
                self._arrived.wait(wait_s)
                self._num_asleep -= 1
            stirred = bool(self._requests or self._cancels or self._stirred or self._closed)
            self._stirred = False
            return stirred

    def stir(self) -> None:
        """End one wait, of those that wait now or the next one: there is something to run."""
        with self._lock:
            self._stirred = True
            self._arrived.notify()

    def set_backlog(self, num_new: int, num_steps: int, num_inputs: int) -> None:
        """Say how many of those taken still wait in the engine, and how many inputs their steps have."""
        self._inside = (num_new, num_steps, num_inputs)

    def close(self, reason: Callable[[], ServiceError]) -> None:
        """Refuse everything from now on, each time with a new `reason()`; the first one told stands."""
        with self._lock:
            self._closed = self._closed or reason
            self._arrived.notify_all()

    def has(self, request: RequestId) -> bool:
        """Whether a request is still here."""
        with self._lock:
            return any(one.id == request for one in self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def _refuse(self, which: str, wait_s: float) -> None:
        self.num_refused += 1
        raise Overloaded(f"the model is at its limit: {which}", retry_after_s(wait_s))
