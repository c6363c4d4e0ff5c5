"""The calls that one door is answering: how many at a time, who may come in, and an orderly end."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from service.errors import Overloaded, ShuttingDown

RETRY_AFTER_S: Final = 1.0  # a hint where nothing is known about when the next call ends
DRAIN_POLL_S: Final = 0.02  # between looks at whether what runs through several calls is over, only once it drains
STOPPED: Final = "the service shut down before the answer was ready"


class Calls:
    """Calls in flight. Everything runs on the event loop.

    Args:
        max_calls: Calls being answered at a time, questions about health apart.
        name: What the door's protocol names several of them.
    """

    def __init__(self, max_calls: int, name: str = "calls") -> None:
        self._max_calls = max_calls
        self._name = name
        self.draining = asyncio.Event()  # nothing new is admitted
        self._stopped = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def stopped(self) -> bool:
        """Whether the time to finish is over: a call that is cancelled now is told so."""
        return self._stopped

    # Plain calls, not a context manager: every call of the service passes here, and an asynccontextmanager would be a
    # tenth of what the Python of a small one costs.

    def enter(self) -> "asyncio.Task[Any]":
        """Count the current task as a call; `leave` ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._idle.clear()
        return task

    def admit(self, *, while_draining: bool, is_health: bool) -> None:
        """Check that the call that entered last may stay.

        Args:
            while_draining: Whether it may come in until the drain is over.
            is_health: Whether it is a question about health, which is answered however many calls there are: a service
                that has all the work it takes is well, and who asks would have it started anew if it were not.

        Raises:
            ShuttingDown: Nothing new is admitted.
            Overloaded: There are as many calls as there may be.
        """
        if self.draining.is_set() and (self._stopped or not while_draining):
            raise ShuttingDown("the service is shutting down and admits nothing new")
        if len(self._tasks) > self._max_calls and not is_health:
            raise Overloaded(f"expected at most {self._max_calls} {self._name} at a time, got one more", RETRY_AFTER_S)

    def leave(self, task: "asyncio.Task[Any]") -> None:
        """Count a call no more."""
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    async def drain(self, timeout_s: float, is_over: Callable[[], bool] = lambda: True) -> bool:
        """Admit nothing more and wait for what is in flight; what takes longer is cancelled, with `stopped` set.

        Args:
            timeout_s: To wait at most.
            is_over: Whether nothing is left that runs through several calls; those are admitted meanwhile.

        Returns:
            Whether all calls ended by themselves within `timeout_s`.
        """
        self.draining.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
                while not is_over():
                    await asyncio.sleep(DRAIN_POLL_S)
                    await self._idle.wait()
                self._stopped = True
        except TimeoutError:
            self._stopped = True
            for task in self._tasks:
                task.cancel()
            await self._idle.wait()
            return False
        return True
