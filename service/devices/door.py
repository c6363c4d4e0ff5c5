"""One door to several engines of the same model, each on a device of its own.

New work goes to the device with the least to do, a new session to the one with the fewest. A session lives on one
device, where its row is, and so do its forks; when sessions lie unevenly, idle ones are moved (see `moves`).

One lock guards the books here. It is taken after an engine's own and before that of an engine's inbox, never the other
way round: the engines publish while they hold theirs. Events of one session come in order: those of the device that it
leaves are out before those of the one where it goes on.
"""

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from service.devices.balance import Evenness, is_uneven, shifts
from service.devices.descriptions import Gathering
from service.devices.load import Kind, Load
from service.devices.moves import Moves
from service.devices.pins import Pin, Pins
from service.devices.sums import sum_run_stats, sum_stats
from service.engine.interface import (
    AnyRequest,
    Cancelled,
    CloseSession,
    Decode,
    DescribeSessions,
    EngineDoor,
    EngineStats,
    Event,
    Failed,
    Finished,
    ForkSession,
    Generate,
    OpenSession,
    Publish,
    RequestId,
    RunSequence,
    RunStats,
    RunTensors,
    SessionDescription,
    SessionEnded,
    SessionId,
    StepSession,
    StepTensors,
    TokensDecided,
)
from service.errors import DeadlineExceeded, Overloaded, ServiceError, ShuttingDown

log = logging.getLogger(__name__)

AT_A_TIME: Final = 32  # sessions that are being moved
_REST_S: Final = 1.0  # after a session could not be moved

_KINDS: Final[Mapping[type[Any], Kind]] = {
    RunSequence: Kind.WORK,
    RunTensors: Kind.WORK,
    Decode: Kind.WORK,
    Generate: Kind.WORK,
    StepSession: Kind.STEP,
    StepTensors: Kind.STEP,
}


class DeviceEngine(EngineDoor, Protocol):
    """What is needed of an engine besides its door; `service.engine.engine.Engine` is one."""

    failed: bool

    def start(self) -> None:
        """Begin to serve."""

    def close(self) -> None:
        """Stop; what has not finished fails with ShuttingDown."""


Make = Callable[[Publish, Callable[[], None]], DeviceEngine]


class _Asked(NamedTuple):
    """One request without an end: the device that has it (None: nobody yet) and the session that it is for."""

    device: int | None
    kind: Kind
    pin: Pin | None


class Devices:
    """See the module docstring; implements `EngineDoor`.

    Args:
        makers: Each makes the engine of one device, given where to publish and whom to tell of a bug that ended it.
        publish: Takes events, on the engines' threads, one call at a time; must not block.
        on_stopped: Called once, on such a thread, if a bug ended one of the engines.
        max_sessions: Most sessions open at a time, on all devices together; a place is free when a close was answered.
        evenness: When sessions are moved.
        clock: That of the engines, in seconds.
    """

    def __init__(
        self,
        makers: Sequence[Make],
        publish: Publish,
        on_stopped: Callable[[], None] | None,
        max_sessions: int,
        evenness: Evenness | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if len(makers) < 2:
            raise ValueError(f"makers: expected at least 2, one a device, got {len(makers)}")
        self._publish_events, self._on_stopped = publish, on_stopped
        self._max_sessions, self._evenness, self._clock = max_sessions, evenness or Evenness(), clock
        self._lock = threading.Lock()
        self._events: list[Event] = []  # to be published before the lock is let go of
        self._own_ids = itertools.count(-1, -1)  # those of callers are positive
        self._asked: dict[RequestId, _Asked] = {}
        self._turning: dict[RequestId, OpenSession | ForkSession | CloseSession] = {}  # begin or end a session
        self._gathering: dict[RequestId, Gathering] = {}  # by our own requests
        self._loads = [Load() for _ in makers]
        self._pins = Pins(len(makers))
        self._engines = [make(self._hears(device), self._stopped) for device, make in enumerate(makers)]
        self._moves = Moves(self._engines, self._pins, lambda: next(self._own_ids), self._pass_on, self._refuse_late)
        self._num_refused = 0  # here, less what one engine refused and another one took
        self._evening = False  # sessions are being moved until they lie as evenly as can be
        self._num_turned_back = 0
        self._rest_until_s = -math.inf
        self._closing = self._told = False

    @property
    def failed(self) -> bool:
        """Whether a bug ended one of the engines; the others serve what they have until somebody closes them."""
        return any(engine.failed for engine in self._engines)

    @property
    def num_moved(self) -> int:
        """Sessions that were moved from one device to another so far."""
        return self._moves.num_arrived

    def start(self) -> None:
        """Begin to serve."""
        for engine in self._engines:
            engine.start()

    def close(self) -> None:
        """Stop all engines, side by side; what has not finished fails with ShuttingDown."""
        with self._lock:
            self._closing = True
        closing = [threading.Thread(target=engine.close, daemon=True) for engine in self._engines]
        for thread in closing:
            thread.start()
        for thread in closing:  # an engine's close is bounded by itself
            thread.join()
        with self._lock:
            self._moves.abandon(_shut_down())
            self._flush()

    # -------------------------------------------------------------------------------------- the door, from any thread

    def submit(self, request: AnyRequest) -> None:
        """Admit a request; see `EngineDoor`."""
        with self._lock:
            try:
                if isinstance(request, OpenSession):
                    self._open(request)
                elif isinstance(request, DescribeSessions):
                    self._describe(request)
                elif _KINDS.get(type(request)) == Kind.WORK:
                    self._begin_work(request)
                else:
                    self._ask_session(request)
            finally:
                self._flush()

    def cancel(self, request: RequestId) -> None:
        """Stop a request within one step; see `EngineDoor`."""
        with self._lock:
            asked = self._asked.get(request)
            if asked is None:
                return
            if asked.device is not None:
                self._engines[asked.device].cancel(request)
            elif asked.pin is not None and asked.pin.move is not None and not self._is_close(request):
                asked.pin.move.held.drop(request)
                self._settle(Cancelled(request))
                self._flush()

    def has_begun(self, request: RequestId) -> bool:
        """Whether a request runs by now; see `EngineDoor`."""
        with self._lock:
            asked = self._asked.get(request)
        if asked is None:
            return True
        # Not under the lock here: an engine that publishes holds its own and waits for this one.
        return asked.device is not None and self._engines[asked.device].has_begun(request)

    def stats(self) -> EngineStats:
        """Counts as of each engine's last turn; a session on its way may be counted on both devices."""
        return sum_stats([engine.stats() for engine in self._engines], self._num_refused)

    def run_stats(self) -> RunStats:
        """What has run since the start, on all devices."""
        return sum_run_stats([engine.run_stats() for engine in self._engines])

    def move(self, session: SessionId, device: int) -> bool:
        """Send a session to another device, behind what it was asked so far.

        Returns:
            Whether it is on its way; it may still turn back.
        """
        with self._lock:
            return self._moves.start(session, device)

    def check_integrity(self) -> None:
        """Prove that sessions are in the books once, and that unanswered requests are counted.

        Raises:
            IntegrityError: They are not.
        """
        with self._lock:
            self._pins.check_integrity()

    # ------------------------------------------------------------------------------------------------ asking, locked

    def _begin_work(self, request: AnyRequest) -> None:
        """Give new work to the device with the least to do; to another one if that takes no more."""
        devices = sorted(self._alive(), key=lambda device: self._loads[device].wait_s)
        for num_tried, device in enumerate(devices, start=1):
            try:
                self._send(device, request, None)
            except (Overloaded, DeadlineExceeded) as error:
                if num_tried == len(devices):
                    raise
                self._num_refused -= isinstance(error, Overloaded)
            else:
                return

    def _open(self, request: OpenSession) -> None:
        pin = self._pins.get(request.session)
        if pin is not None:  # its engine says that it is open already
            self._send(pin.device, request, pin)
        elif self._has_room(request):
            counts = {device: self._num_sessions(device) for device in self._alive()}
            device = min(counts, key=lambda device: (counts[device], self._loads[device].wait_s))
            try:
                self._send(device, request, self._pins.add(request.session, device))
            except ServiceError:
                self._pins.remove(request.session)
                raise
            self._turning[request.id] = request

    def _ask_session(self, request: Any) -> None:
        forks = isinstance(request, ForkSession)
        session = request.source if forks else request.session
        pin = self._pins.get(session)
        if pin is None:  # any engine says that there is no such session
            self._send(self._alive()[0], request, None)
            return
        if forks and not self._has_room(request):
            return
        if pin.move is None:
            self._send(pin.device, request, pin)
        else:
            pin.move.held.require_place()
            pin.move.held.add(request, None)
            self._note(None, request, pin)
        if forks and self._pins.get(request.session) is None:
            fork = self._pins.add(request.session, pin.device)
            fork.num_unanswered += 1  # until the fork is answered
            if pin.move is not None:
                fork.move = pin.move
                pin.move.pins[request.session] = fork
            self._turning[request.id] = request
        elif isinstance(request, CloseSession):
            self._turning[request.id] = request

    def _has_room(self, request: OpenSession | ForkSession) -> bool:
        """Whether one more session may be opened; if not, the request fails as an engine would have it fail."""
        if len(self._pins) < self._max_sessions:
            return True
        error = Overloaded(f"the model is at its limit: {self._max_sessions} sessions are open", 1.0)
        self._num_refused += 1
        self._events.append(Failed(request.id, error))
        return False

    def _describe(self, request: DescribeSessions) -> None:
        parts: dict[int, list[SessionId]] = {}
        for session in request.sessions:
            pin = self._pins.get(session)
            if pin is not None:
                parts.setdefault(pin.device, []).append(session)
        if len(parts) < 2:
            self._send(next(iter(parts), self._alive()[0]), request, None)
            return
        gathering = Gathering(request, len(parts))
        self._note(None, request, None)
        for device, sessions in parts.items():
            own_id = next(self._own_ids)
            try:
                self._engines[device].submit(DescribeSessions(own_id, tuple(sessions)))
            except ServiceError as error:
                self._gather(gathering, error)
            else:
                self._gathering[own_id] = gathering

    def _send(self, device: int, request: AnyRequest, pin: Pin | None) -> None:
        """Submit a request to a device, and note it; it is not noted if that raises."""
        self._engines[device].submit(request)
        self._note(device, request, pin)
        self._loads[device].begin(_KINDS.get(type(request), Kind.OTHER), self._clock())

    def _note(self, device: int | None, request: AnyRequest, pin: Pin | None) -> None:
        self._asked[request.id] = _Asked(device, _KINDS.get(type(request), Kind.OTHER), pin)
        if pin is not None:
            pin.num_unanswered += 1

    def _pass_on(self, device: int, request: AnyRequest) -> None:
        """Submit a request that waited for its session to arrive."""
        asked = self._asked[request.id]
        self._engines[device].submit(request)
        self._asked[request.id] = asked._replace(device=device)
        self._loads[device].begin(asked.kind, self._clock())

    def _refuse_late(self, request: AnyRequest, error: ServiceError) -> None:
        self._settle(Failed(request.id, error))

    # ----------------------------------------------------------------------------------------------- hearing, locked

    def _hears(self, device: int) -> Publish:
        """Where the engine of a device publishes."""

        def hear(events: Sequence[Event]) -> None:
            with self._lock:
                try:
                    for event in events:
                        self._hear(event)
                    self._loads[device].note(self._clock())
                    self._even_out()
                finally:
                    self._flush()

        return hear

    def _hear(self, event: Event) -> None:
        if isinstance(event, TokensDecided):
            self._events.append(event)
        elif isinstance(event, SessionEnded):
            self._ended(event)
        elif event.request > 0:
            self._settle(event)
        elif event.request in self._gathering:
            gathering = self._gathering.pop(event.request)
            part: Any = event.value if isinstance(event, Finished) else getattr(event, "error", None)
            self._gather(gathering, part)
        else:
            self._moves.hear(event)

    def _settle(self, event: Finished | Failed | Cancelled) -> None:
        """Take the end of a caller's request."""
        device, kind, pin = self._asked.pop(event.request)
        finished = isinstance(event, Finished)
        if device is not None:
            self._loads[device].end(kind, finished)
        if pin is not None:
            pin.num_unanswered -= 1
        request = self._turning.pop(event.request, None)
        if request is not None:
            if finished == isinstance(request, CloseSession):  # closed, or not begun
                self._unpin(request.session)
            elif isinstance(request, ForkSession) and (fork := self._pins.get(request.session)) is not None:
                fork.num_unanswered -= 1
        self._events.append(event)

    def _ended(self, event: SessionEnded) -> None:
        pin = self._pins.get(event.session)
        if pin is not None and pin.move is not None:
            pin.move.ended = pin.move.ended or pin.move.session == event.session
        self._unpin(event.session)
        self._events.append(event)

    def _unpin(self, session: SessionId) -> None:
        if self._pins.get(session) is not None:
            self._pins.remove(session)

    def _gather(self, gathering: Gathering, part: Sequence[SessionDescription] | ServiceError) -> None:
        answer = gathering.add(part)
        if answer is not None:
            self._settle(answer)

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._publish_events(events)

    def _is_close(self, request: RequestId) -> bool:
        return isinstance(self._turning.get(request), CloseSession)

    # --------------------------------------------------------------------------------------------- the devices, locked

    def _alive(self) -> list[int]:
        """The devices whose engine no bug has ended; if that is none, all of them: they say so."""
        alive = [device for device, engine in enumerate(self._engines) if not engine.failed]
        return alive or list(range(len(self._engines)))

    def _num_sessions(self, device: int) -> int:
        """Sessions of a device when what moves has arrived."""
        return self._pins.count(device) + self._moves.arriving(device)

    def _even_out(self) -> None:
        """Move idle sessions if they lie unevenly, until they lie as evenly as can be."""
        if self._moves.num_turned_back > self._num_turned_back:  # there is no room, and will not be at once
            self._num_turned_back = self._moves.num_turned_back
            self._rest_until_s = self._clock() + _REST_S
        if self._closing or self._clock() < self._rest_until_s:
            return
        devices = self._alive()
        counts = [self._num_sessions(device) for device in devices]
        if not (self._evening or is_uneven(counts, self._evenness)):
            return
        num_free = AT_A_TIME - len(self._moves)
        planned = shifts(counts, num_free)
        self._evening = bool(planned) or num_free <= 0
        for source, to in planned:
            session = self._pins.idle(devices[source])
            if session is None:  # those that were looked at are busy: the next time
                return
            self._moves.start(session, devices[to])

    def _stopped(self) -> None:
        """Tell of the first engine that a bug has ended; called on its thread."""
        with self._lock:
            first, self._told = not self._told, True
        if first and self._on_stopped is not None:
            self._on_stopped()


def _shut_down() -> ShuttingDown:
    return ShuttingDown("the service is shutting down and takes no more requests")
