"""What fakes of engines have in common: they answer at once, or hold requests until the test decides about them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from service.engine.interface import (
    AnyRequest,
    Cancelled,
    Event,
    Failed,
    Publish,
    RequestId,
    SessionEnded,
    SessionId,
)
from service.errors import ServiceError


class FakeDoor(ABC):
    """All of an EngineDoor but what it answers; `publish` is called on the thread that submits.

    Requests are answered in order, or whichever the test releases first.

    Attributes:
        submitted: All requests that were taken.
        held: Those that are not answered.
        hold: Whether to hold what comes.
        begun: Of what is held, what says that it has begun.
        refusals: What the next submits raise, first to last; None: nothing.
        cancelled: What was asked to stop.
    """

    def __init__(self, publish: Publish) -> None:
        self.publish = publish
        self.submitted: list[AnyRequest] = []
        self.cancelled: list[RequestId] = []
        self.held: dict[RequestId, AnyRequest] = {}
        self.hold = False
        self.begun: set[RequestId] = set()
        self.refusals: list[ServiceError | None] = []

    @abstractmethod
    def events(self, request: AnyRequest) -> Sequence[Event]:
        """What a request is answered with."""

    @abstractmethod
    def forget(self, session: SessionId) -> int:
        """Drop a session; returns the steps that it has taken."""

    def submit(self, request: AnyRequest) -> None:
        if self.refusals and (refusal := self.refusals.pop(0)) is not None:
            raise refusal
        self.submitted.append(request)
        self.held[request.id] = request
        if not self.hold:
            self.release(request.id)

    def cancel(self, request: RequestId) -> None:
        self.cancelled.append(request)
        if self.held.pop(request, None) is not None:
            self.publish([Cancelled(request)])

    def has_begun(self, request: RequestId) -> bool:
        return request in self.begun or request not in self.held

    def release(self, request: RequestId) -> None:
        """Answer a held request."""
        self.publish(self.events(self.held.pop(request)))

    def release_all(self) -> None:
        """Answer what is held, in order."""
        for request in list(self.held):
            self.release(request)

    def fail(self, request: RequestId, error: ServiceError) -> None:
        """Fail a held request."""
        del self.held[request]
        self.publish([Failed(request, error)])

    def end(self, session: SessionId, *, expired: bool) -> None:
        """End a session of the engine's own accord."""
        self.publish([SessionEnded(session, expired, self.forget(session))])
