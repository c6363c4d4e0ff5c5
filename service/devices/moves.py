"""Sessions on their way from one device to another: lifted from the one, landed on the other, and nothing lost.

    lift (behind what was asked so far) -> land -> what waited goes there -> both are told where the session is

Until it has landed a session is where it was: if the other device has no room for it, it stays there. It goes whole,
with its marks, the answers kept for steps sent again and its ages, and does not expire on its way. What is asked of it
meanwhile waits here: for what was asked before, as it would have anyway, and for a turn of each of the two engines.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from service.devices.pins import Pin, Pins
from service.engine.interface import (
    AnyRequest,
    CarriedSession,
    EndLift,
    EngineDoor,
    Event,
    Finished,
    LandSession,
    LiftSession,
    RequestId,
    SessionId,
)
from service.errors import ServiceError
from service.on_the_way import Held

log = logging.getLogger(__name__)

MOST_WAITING: Final = 4096  # requests of one session on its way
_RETRY_S: Final = 1.0  # for one more

Send = Callable[[int, AnyRequest], None]
Refuse = Callable[[AnyRequest, ServiceError], None]


class Move:
    """One session on its way.

    Attributes:
        session: Which.
        source: The device that it comes from.
        to: The one that it goes to.
        held: What is asked of it meanwhile.
        pins: Its own, and those of sessions that are to be forked from it when it has arrived.
        ended: Whether it ended on the way.
    """

    def __init__(self, session: SessionId, pin: Pin, to: int) -> None:
        self.session, self.source, self.to = session, pin.device, to
        self.held: Held[None] = Held(MOST_WAITING, _RETRY_S)
        self.pins = {session: pin}
        self.ended = False


class Moves:
    """See the module docstring. Not thread-safe: whoever owns it has a lock.

    Args:
        engines: One a device.
        pins: Where sessions live.
        new_id: Makes ids that no request of anybody else has.
        send: Submits a request that waited to a device; raises ServiceError where it is not taken.
        refuse: Takes those that are not.

    Attributes:
        num_arrived: Sessions that were moved so far.
        num_turned_back: Those that were not, though it was tried.
    """

    def __init__(
        self,
        engines: Sequence[EngineDoor],
        pins: Pins,
        new_id: Callable[[], RequestId],
        send: Send,
        refuse: Refuse,
    ) -> None:
        self._engines, self._pins, self._new_id = engines, pins, new_id
        self._send, self._refuse = send, refuse
        self._under_way: dict[RequestId, Move] = {}  # by the request of ours that is unanswered
        self.num_arrived = self.num_turned_back = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def arriving(self, device: int) -> int:
        """Sessions on their way to a device, less those on their way from it."""
        return sum((move.to == device) - (move.source == device) for move in self._under_way.values())

    def start(self, session: SessionId, to: int) -> bool:
        """Send a session to another device.

        Returns:
            Whether it is on its way now; not if it was already, is there or does not exist.
        """
        pin = self._pins.get(session)
        if pin is None or pin.move is not None or pin.device == to:
            return False
        # Without a deadline: what is asked meanwhile would have waited for the same behind it.
        lift = LiftSession(self._new_id(), session)
        try:
            self._engines[pin.device].submit(lift)
        except ServiceError:
            return False
        pin.move = self._under_way[lift.id] = Move(session, pin, to)
        return True

    def hear(self, event: Event) -> None:
        """Take the answer to a request of ours."""
        move = self._under_way.pop(event[0], None)
        if move is None:  # of where a session is nobody waits to hear
            return
        if not isinstance(event, Finished):
            self._turn_back(move)
        elif isinstance(event.value, CarriedSession):
            self._land(move, event.value)
        else:
            self._arrive(move)

    def abandon(self, error: ServiceError) -> None:
        """Refuse all that waits: the engines are closed, and one of them has not answered."""
        for move in self._under_way.values():
            for request in move.held:
                move.held.drop(request.id)
                self._refuse(request, error)
        self._under_way.clear()

    def _land(self, move: Move, carried: CarriedSession) -> None:
        land = LandSession(self._new_id(), move.session, carried)
        try:
            self._engines[move.to].submit(land)
        except ServiceError:
            self._turn_back(move)
        else:
            self._under_way[land.id] = move

    def _arrive(self, move: Move) -> None:
        if move.ended:
            self._tell(move.to, move.session, gone=True)
            self._turn_back(move)
            return
        self.num_arrived += 1
        for session in self._settled(move):
            self._pins.shift(session, move.to)
        self._go_on(move, move.to)
        self._tell(move.source, move.session, gone=True)

    def _turn_back(self, move: Move) -> None:
        """The session is where it was, or has ended there."""
        self.num_turned_back += 1
        self._settled(move)
        self._go_on(move, move.source)

    def _settled(self, move: Move) -> list[SessionId]:
        """The sessions of a move that there are, which is over."""
        there = [session for session, pin in move.pins.items() if self._pins.get(session) is pin]
        for pin in move.pins.values():
            pin.move = None
        return there

    def _go_on(self, move: Move, device: int) -> None:
        """Let a device have what waited, and only then let the session expire: somebody has just asked for it."""
        move.held.release(lambda request, _: self._send(device, request), lambda r, _, error: self._refuse(r, error))
        if not move.ended:
            self._tell(device, move.session, gone=False)

    def _tell(self, device: int, session: SessionId, gone: bool) -> None:
        with contextlib.suppress(ServiceError):  # a device that takes nothing more has no sessions
            self._engines[device].submit(EndLift(self._new_id(), session, gone))
