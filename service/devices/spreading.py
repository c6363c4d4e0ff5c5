"""Evens out how sessions lie on the devices, by moving idle ones."""

import math
from collections.abc import Callable, Sequence
from typing import Final

from service.devices.balance import Evenness, is_uneven, shifts
from service.devices.moves import Moves
from service.devices.pins import Pins

AT_A_TIME: Final = 32  # sessions that are being moved
_REST_S: Final = 1.0  # after one could not be moved


class Spreading:
    """See the module docstring. Not thread-safe.

    Args:
        pins: Where sessions live.
        moves: Moves them.
        evenness: When they are moved at all; once they are, until they lie as evenly as can be.
        clock: In seconds.
    """

    def __init__(self, pins: Pins, moves: Moves, evenness: Evenness, clock: Callable[[], float]) -> None:
        self._pins, self._moves, self._evenness, self._clock = pins, moves, evenness, clock
        self._begun = False
        self._num_turned_back = 0  # when it was last looked at
        self._rest_until_s = -math.inf

    def num_sessions(self, device: int) -> int:
        """Sessions of a device when what moves has arrived."""
        return self._pins.count(device) + self._moves.arriving(device)

    def even_out(self, devices: Sequence[int]) -> None:
        """Have some idle sessions of these devices moved, if they lie unevenly."""
        if self._moves.num_turned_back > self._num_turned_back:  # there is no room, and will not be at once
            self._num_turned_back = self._moves.num_turned_back
            self._rest_until_s = self._clock() + _REST_S
        if self._clock() < self._rest_until_s:
            return
        counts = [self.num_sessions(device) for device in devices]
        if not (self._begun or is_uneven(counts, self._evenness)):
            return
        num_free = AT_A_TIME - len(self._moves)
        planned = shifts(counts, num_free)
        self._begun = bool(planned) or num_free <= 0
        for source, to in planned:
            session = self._pins.idle(devices[source])
            if session is None:  # those that were looked at are busy: the next time
                return
            self._moves.start(session, devices[to])
