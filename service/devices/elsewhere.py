"""Sessions that the device with the fewest of them has no room for, and another one may have."""

from collections.abc import Sequence

from service.devices.pins import Pins
from service.devices.unanswered import Unanswered
from service.engine.interface import EngineDoor, Failed
from service.errors import Overloaded, ServiceError


class Elsewhere:
    """See the module docstring. Not thread-safe: whoever owns it has a lock.

    Args:
        engines: One a device.
        pins: Where sessions live.
        unanswered: What was asked.
    """

    def __init__(self, engines: Sequence[EngineDoor], pins: Pins, unanswered: Unanswered) -> None:
        self._engines, self._pins, self._unanswered = engines, pins, unanswered

    def open(self, event: Failed, devices: Sequence[int]) -> bool:
        """Open a session on another device than the one that has just refused it.

        Not where more was asked of it already: that has failed for want of a session, and so does the open then.

        Args:
            event: What its device says.
            devices: Those that may have it, the best first.

        Returns:
            Whether one of them is to say now, and the event is not for the caller.
        """
        request = self._unanswered.opening(event.request)
        if request is None or not isinstance(event.error, Overloaded):
            return False
        pin = self._pins.get(request.session)
        if pin is None or pin.move is not None or pin.num_unanswered > 1:
            return False
        for device in devices:
            if self._unanswered.was_given(request.id, device):
                continue
            try:
                self._engines[device].submit(request)
            except ServiceError:  # it is closed, say
                continue
            self._pins.shift(request.session, device)
            self._unanswered.give_anew(request.id, device)
            return True
        return False
