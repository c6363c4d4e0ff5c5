"""What was asked and not answered: who deals with it, what it counts as, and which session begins or ends by it."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from service.devices.load import Kind, Load
from service.devices.pins import Pin, Pins
from service.engine.interface import (
    AnyRequest,
    Cancelled,
    CloseSession,
    Decode,
    Failed,
    Finished,
    ForkSession,
    Generate,
    OpenSession,
    RequestId,
    RunSequence,
    RunTensors,
    StepSession,
    StepTensors,
)

_KINDS: Final[Mapping[type[Any], Kind]] = {
    RunSequence: Kind.WORK,
    RunTensors: Kind.WORK,
    Decode: Kind.WORK,
    Generate: Kind.WORK,
    StepSession: Kind.STEP,
    StepTensors: Kind.STEP,
}


def kind_of(request: AnyRequest) -> Kind:
    """What a request counts as."""
    return _KINDS.get(type(request), Kind.OTHER)


class Asked(NamedTuple):
    """One request without an end.

    Args:
        device: Which deals with it; None: none yet, or several.
        kind: What it counts as.
        pin: Of the session that it is for.
        refused: Devices that it was given to before.
    """

    device: int | None
    kind: Kind
    pin: Pin | None
    refused: tuple[int, ...] = ()


class Unanswered:
    """See the module docstring. Not thread-safe.

    Args:
        pins: Where sessions live; those that do not begin, or end, are forgotten there.
        num_devices: How many there are.
        clock: In seconds.

    Attributes:
        loads: What each device has to do.
    """

    def __init__(self, pins: Pins, num_devices: int, clock: Callable[[], float]) -> None:
        self._pins, self._clock = pins, clock
        self.loads = [Load() for _ in range(num_devices)]
        self._asked: dict[RequestId, Asked] = {}
        self._turning: dict[RequestId, OpenSession | ForkSession | CloseSession] = {}  # begin or end a session

    def __len__(self) -> int:
        return len(self._asked)

    def get(self, request: RequestId) -> Asked | None:
        """A request that has no end so far."""
        return self._asked.get(request)

    def is_close(self, request: RequestId) -> bool:
        """Whether a request without an end closes a session."""
        return isinstance(self._turning.get(request), CloseSession)

    def opening(self, request: RequestId) -> OpenSession | None:
        """The request of that id, if it begins a session and has no end."""
        begins = self._turning.get(request)
        return begins if isinstance(begins, OpenSession) else None

    def was_given(self, request: RequestId, device: int) -> bool:
        """Whether a device deals with a request, or has refused it."""
        asked = self._asked[request]
        return device == asked.device or device in asked.refused

    def give_anew(self, request: RequestId, device: int) -> None:
        """Another device deals with a request now than the one that has refused it."""
        asked = self._asked[request]
        if asked.device is not None:
            self.loads[asked.device].end(asked.kind, finished=False)
            self._asked[request] = asked._replace(refused=(*asked.refused, asked.device))
        self.give(request, device)

    def note(self, device: int | None, request: AnyRequest, pin: Pin | None) -> None:
        """Count a request that was taken; of an open or a fork `begins` tells besides."""
        asked = self._asked[request.id] = Asked(device, kind_of(request), pin)
        if pin is not None:
            pin.num_unanswered += 1
        if device is not None:
            self.loads[device].begin(asked.kind, self._clock())
        if isinstance(request, CloseSession) and pin is not None:
            self._turning[request.id] = request

    def begins(self, request: OpenSession | ForkSession) -> None:
        """Say that a request, if it does not fail, begins the session that was pinned for it."""
        self._turning[request.id] = request
        if isinstance(request, ForkSession) and (fork := self._pins.get(request.session)) is not None:
            fork.num_unanswered += 1  # until it has taken place

    def give(self, request: RequestId, device: int) -> None:
        """A device deals with a request now that waited until here."""
        asked = self._asked[request] = self._asked[request]._replace(device=device)
        self.loads[device].begin(asked.kind, self._clock())

    def end(self, event: Finished | Failed | Cancelled) -> None:
        """Take the end of a request."""
        asked = self._asked.pop(event.request, None)
        if asked is None:  # a bug of ours, which is not to keep others from their answers
            return
        device, kind, pin, _ = asked
        finished = isinstance(event, Finished)
        if device is not None:
            self.loads[device].end(kind, finished)
        if pin is not None:
            pin.num_unanswered -= 1
        request = self._turning.pop(event.request, None)
        if request is None:
            return
        if finished == isinstance(request, CloseSession):  # closed, or not begun
            self._pins.discard(request.session)
        elif isinstance(request, ForkSession) and (fork := self._pins.get(request.session)) is not None:
            fork.num_unanswered -= 1
