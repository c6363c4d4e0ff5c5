"""One door to several engines of the same model, each on a device of its own.

New work goes to the device with the least to do, a new session to the one with the fewest. A session lives on one
device, where its row is, and so do its forks; when sessions lie unevenly, idle ones are moved (see `moves`).

One lock guards the books here. It is taken after an engine's own and before that of an engine's inbox, never the other
way round: the engines publish while they hold theirs. Events of one session come in order: those of the device that it
leaves are out before those of the one where it goes on.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from service.devices.balance import Evenness
from service.devices.descriptions import Gathering
from service.devices.elsewhere import Elsewhere
from service.devices.engines import Make, close_all
from service.devices.load import Kind
from service.devices.moves import Moves
from service.devices.pins import Pin, Pins
from service.devices.spreading import Spreading
from service.devices.sums import sum_run_stats, sum_stats
from service.devices.unanswered import Unanswered, kind_of
from service.engine.interface import (
    AnyRequest,
    Cancelled,
    DescribeSessions,
    EngineStats,
    Event,
    Failed,
    Finished,
    ForkSession,
    OpenSession,
    Publish,
    RequestId,
    RunStats,
    SessionDescription,
    SessionEnded,
    SessionId,
    TokensDecided,
)
from service.errors import DeadlineExceeded, Overloaded, ServiceError, SessionNotFound, ShuttingDown


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
        self._max_sessions, self._clock = max_sessions, clock
        self._lock = threading.Lock()
        self._events: list[Event] = []  # to be published before the lock is let go of
        self._own_ids = itertools.count(-1, -1)  # those of callers are positive
        self._gathering: dict[RequestId, Gathering] = {}  # by our own requests
        self._pins = Pins(len(makers))
        self._unanswered = Unanswered(self._pins, len(makers), clock)
        self._engines = [make(self._hears(device), self._stopped) for device, make in enumerate(makers)]
        self._moves = Moves(self._engines, self._pins, lambda: next(self._own_ids), self._pass_on, self._refuse_late)
        self._spreading = Spreading(self._pins, self._moves, evenness or Evenness(), clock)
        self._elsewhere = Elsewhere(self._engines, self._pins, self._unanswered)
        self._num_refused = 0  # here, less what one engine refused and another one took
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
        close_all(self._engines)
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
                elif kind_of(request) == Kind.WORK:
                    self._begin_work(request)
                else:
                    self._ask_session(request)
            finally:
                self._flush()

    def cancel(self, request: RequestId) -> None:
        """Stop a request within one step; see `EngineDoor`."""
        with self._lock:
            asked = self._unanswered.get(request)
            if asked is None:
                return
            if asked.device is not None:
                self._engines[asked.device].cancel(request)
            elif asked.pin is not None and asked.pin.move is not None and not self._unanswered.is_close(request):
                asked.pin.move.held.drop(request)
                self._settle(Cancelled(request))
                self._flush()

    def has_begun(self, request: RequestId) -> bool:
        """Whether a request runs by now; see `EngineDoor`."""
        with self._lock:
            asked = self._unanswered.get(request)
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
        devices = sorted(self._alive(), key=self._wait_s)
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
            device = self._by_sessions()[0]
            try:
                self._send(device, request, self._pins.add(request.session, device))
            except ServiceError:
                self._pins.discard(request.session)
                raise
            self._unanswered.begins(request)

    def _ask_session(self, request: Any) -> None:
        forks = isinstance(request, ForkSession)
        session = request.source if forks else request.session
        pin = self._pins.get(session)
        if pin is None:
            if self._closing:
                raise _shut_down()
            # Not for an engine to say: it may have the copy of a session that ended on its way there.
            self._events.append(Failed(request.id, SessionNotFound(f"session {session}: expected an open session")))
            return
        if forks and not self._has_room(request):
            return
        if pin.move is None:
            self._send(pin.device, request, pin)
        else:
            pin.move.held.require_place()
            pin.move.held.add(request, None)
            self._unanswered.note(None, request, pin)
        if forks and self._pins.get(request.session) is None:
            fork = self._pins.add(request.session, pin.device)
            if pin.move is not None:
                fork.move = pin.move
                pin.move.pins[request.session] = fork
            self._unanswered.begins(request)

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
        self._unanswered.note(None, request, None)
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
        self._unanswered.note(device, request, pin)

    def _pass_on(self, device: int, request: AnyRequest) -> None:
        """Submit a request that waited for its session to arrive."""
        self._engines[device].submit(request)
        self._unanswered.give(request.id, device)

    def _refuse_late(self, request: AnyRequest, error: ServiceError) -> None:
        self._settle(Failed(request.id, error))

    # ----------------------------------------------------------------------------------------------- hearing, locked

    def _hears(self, device: int) -> Publish:
        """Where the engine of a device publishes."""

        def hear(events: Sequence[Event]) -> None:
            with self._lock:
                try:
                    for event in events:
                        self._hear(device, event)
                    self._unanswered.loads[device].note(self._clock())
                    self._spreading.even_out(self._alive())
                finally:
                    self._flush()

        return hear

    def _hear(self, device: int, event: Event) -> None:
        if isinstance(event, TokensDecided):
            self._events.append(event)
        elif isinstance(event, SessionEnded):
            self._end_session(device, event)
        elif isinstance(event, Failed) and self._elsewhere.open(event, self._by_sessions()):
            self._num_refused -= 1
        elif event.request > 0:
            self._settle(event)
        elif event.request in self._gathering:
            part: Any = event.value if isinstance(event, Finished) else getattr(event, "error", None)
            self._gather(self._gathering.pop(event.request), part)
        else:
            self._moves.hear(event)

    def _settle(self, event: Finished | Failed | Cancelled) -> None:
        """Take the end of a caller's request."""
        self._unanswered.end(event)
        self._events.append(event)

    def _end_session(self, device: int, event: SessionEnded) -> None:
        pin = self._pins.get(event.session)
        if pin is None or pin.device != device:  # a copy that nobody knows of: it is, or was, elsewhere
            return
        if pin.move is not None and pin.move.session == event.session:
            pin.move.ended = True
        self._pins.discard(event.session)
        self._events.append(event)

    def _gather(self, gathering: Gathering, part: Sequence[SessionDescription] | ServiceError) -> None:
        answer = gathering.add(part)
        if answer is not None:
            self._settle(answer)

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._publish_events(events)

    # --------------------------------------------------------------------------------------------- the devices, locked

    def _alive(self) -> list[int]:
        """The devices whose engine no bug has ended; if that is none, all of them: they say so."""
        alive = [device for device, engine in enumerate(self._engines) if not engine.failed]
        return alive or list(range(len(self._engines)))

    def _by_sessions(self) -> list[int]:
        """Those that are alive, the one with the fewest sessions first."""
        return sorted(self._alive(), key=lambda device: (self._spreading.num_sessions(device), self._wait_s(device)))

    def _wait_s(self, device: int) -> float:
        """How long new work would take on a device."""
        return self._unanswered.loads[device].wait_s

    def _stopped(self) -> None:
        """Tell of the first engine that a bug has ended; called on its thread."""
        with self._lock:
            first, self._told = not self._told, True
        if first and self._on_stopped is not None:
            self._on_stopped()


def _shut_down() -> ShuttingDown:
    return ShuttingDown("the service is shutting down and takes no more requests")
