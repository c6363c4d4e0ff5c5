"""What is asked of a session while it is between two engines: it waits, in order, and goes to whichever has it then."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from service.engine.interface import AnyRequest, RequestId
from service.errors import Overloaded, ServiceError

Whose = TypeVar("Whose")


class Held(Generic[Whose]):
    """Requests that wait for their session to arrive. Not thread-safe.

    Args:
        most: How many, at most.
        retry_s: When to come back for who finds no place, in seconds.
    """

    def __init__(self, most: int, retry_s: float) -> None:
        self._most, self._retry_s = most, retry_s
        self._waiting: list[tuple[AnyRequest, Whose]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[AnyRequest]:
        return iter([request for request, _ in self._waiting])

    def __contains__(self, request: RequestId) -> bool:
        return any(waiting.id == request for waiting, _ in self._waiting)

    def require_place(self) -> None:
        """Make sure that one more can wait.

        Raises:
            Overloaded: There are too many.
        """
        if len(self._waiting) >= self._most:
            raise Overloaded(f"expected at most {self._most} requests of one session, got one more", self._retry_s)

    def add(self, request: AnyRequest, whose: Whose) -> None:
        """Let a request wait behind the others; there is a place for it."""
        self._waiting.append((request, whose))

    def drop(self, request: RequestId) -> None:
        """Let a request wait no more; an unknown one is ignored."""
        self._waiting = [one for one in self._waiting if one[0].id != request]

    def release(
        self,
        submit: Callable[[AnyRequest, Whose], None],
        refused: Callable[[AnyRequest, Whose, ServiceError], None],
    ) -> None:
        """Submit all, in order. Whoever hears of a refusal may drop others meanwhile."""
        while self._waiting:
            request, whose = self._waiting.pop(0)
            try:
                submit(request, whose)
            except ServiceError as error:
                refused(request, whose, error)
