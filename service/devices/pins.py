"""Which session lives on which device. The books are as large as there are open sessions, and no larger."""

from itertools import islice
from typing import TYPE_CHECKING, Final

from service.engine.integrity import IntegrityError
from service.engine.interface import SessionId

if TYPE_CHECKING:
    from service.devices.moves import Move

_MOST_LOOKED_AT: Final = 64  # sessions, when an idle one is looked for


class Pin:
    """Where one session lives.

    Attributes:
        device: Which; while it moves, the one that it comes from.
        num_unanswered: Requests of it without an end.
        move: It is on its way; None: it is not.
    """

    __slots__ = ("device", "move", "num_unanswered")

    def __init__(self, device: int) -> None:
        self.device = device
        self.num_unanswered = 0
        self.move: Move | None = None


class Pins:
    """See the module docstring. Not thread-safe.

    Args:
        num_devices: How many there are.
    """

    def __init__(self, num_devices: int) -> None:
        self._pins: dict[SessionId, Pin] = {}
        self._on: list[dict[SessionId, Pin]] = [{} for _ in range(num_devices)]

    def __len__(self) -> int:
        return len(self._pins)

    def get(self, session: SessionId) -> Pin | None:
        """Where a session lives; None: there is no such session."""
        return self._pins.get(session)

    def count(self, device: int) -> int:
        """Sessions of a device."""
        return len(self._on[device])

    def add(self, session: SessionId, device: int) -> Pin:
        """Pin a new session."""
        pin = self._pins[session] = self._on[device][session] = Pin(device)
        return pin

    def discard(self, session: SessionId) -> None:
        """Forget a session that is open no more, if it is here."""
        pin = self._pins.pop(session, None)
        if pin is not None:
            del self._on[pin.device][session]

    def shift(self, session: SessionId, device: int) -> None:
        """A session lives on another device from now on."""
        pin = self._pins[session]
        del self._on[pin.device][session]
        self._on[device][session] = pin
        pin.device = device

    def idle(self, device: int) -> SessionId | None:
        """Find a session of a device that nothing is asked of and that does not move; None: none among some."""
        there = self._on[device]
        looked_at = list(islice(there.items(), _MOST_LOOKED_AT))
        for session, pin in looked_at:
            if not pin.num_unanswered and pin.move is None:
                return session
        for session, pin in looked_at:  # others are looked at the next time
            del there[session]
            there[session] = pin
        return None

    def check_integrity(self) -> None:
        """Prove that every session is in both books.

        Raises:
            IntegrityError: One is not.
        """
        both = {session: device for device, there in enumerate(self._on) for session in there}
        if both != {session: pin.device for session, pin in self._pins.items()}:
            raise IntegrityError(f"expected {len(self._pins)} sessions on the devices where they are pinned")
