"""Several engines of the reference model behind one door, watched and followed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy.typing as npt

from service.devices.balance import Evenness
from service.devices.door import Devices
from service.engine.engine import Engine
from service.engine.interface import (
    AnyRequest,
    DescribeSessions,
    EngineStats,
    Event,
    ForkSession,
    OpenSession,
    Publish,
    RequestId,
    SessionEnded,
    SessionId,
    TokensDecided,
)
from service.engine.limits import EngineLimits
from service.engine.runs import Plan
from service.engine.slots import Slot, SlotTable
from tests.service.engine.follower import Follower
from tests.service.engine.reference import STATE_BYTES, History
from tests.service.engine.refusals import asked_session
from tests.service.engine.watched import WatchedRunner


class DevicesFollower(Follower):
    """Follows several engines behind one door: each is as large as `limits` says, and told as if it were one.

    Args:
        limits: Of each engine.
        num_devices: How many there are.
        max_sessions: Of all together.
        clock: Theirs.
        exact_time: As of `Follower`.
    """

    takes_a_place = (ForkSession, OpenSession)  # at the door, which may not have heard yet that it cannot have it

    def __init__(
        self,
        limits: EngineLimits,
        num_devices: int,
        max_sessions: int,
        clock: Callable[[], float],
        exact_time: bool = True,
    ) -> None:
        # One device may be full when the others are not, but no smaller number of sessions makes it so.
        each = replace(limits, max_sessions=min(limits.max_sessions, max_sessions))
        super().__init__(each, STATE_BYTES, clock, exact_time)
        self._all = replace(
            limits,
            session_slots=num_devices * limits.session_slots,
            max_sessions=max_sessions,
            max_host_bytes=num_devices * limits.max_host_bytes,
        )
        self._number = 0  # of events
        self._asked_at: dict[RequestId, int] = {}
        self._changed_at: dict[SessionId, int] = {}

    def ask(self, request: AnyRequest, submit: Callable[[AnyRequest], None]) -> None:
        if isinstance(request, DescribeSessions):
            self._asked_at[request.id] = self._number
        super().ask(request, submit)

    def _hear(self, event: Event) -> None:
        before = self.open.keys() | set[SessionId]()
        super()._hear(event)
        self._number += 1
        for session in before ^ self.open.keys():
            self._changed_at[session] = self._number
        if not isinstance(event, SessionEnded | TokensDecided):
            self._changed_at[asked_session(self.requests[event.request]) or 0] = self._number

    def _add(self, session: SessionId, history: History, idle_timeout_s: float | None) -> None:
        each, self.limits = self.limits, self._all
        try:
            super()._add(session, history, idle_timeout_s)
        finally:
            self.limits = each

    def _hear_description(self, request: DescribeSessions, value: object) -> None:
        """The parts are not told at one moment: what has changed since they were asked for may be told as it was."""
        assert isinstance(value, tuple)
        asked_at, told = self._asked_at[request.id], [described.session for described in value]
        assert told == [session for session in request.sessions if session in told]
        same = {session for session in request.sessions if self._changed_at.get(session, 0) <= asked_at}
        self.counts["described"] += len(same.intersection(told))
        super()._hear_description(
            replace(request, sessions=tuple(session for session in request.sessions if session in same)),
            tuple(described for described in value if described.session in same),
        )


@contextmanager
def watching(runners: Sequence[WatchedRunner], engines: Sequence[Engine]) -> Iterator[None]:
    """Have each runner hear of every slot that its engine's table gives out or takes back."""
    allocate, free = SlotTable.allocate, SlotTable.free
    tables = {id(engine._roster.room.slots): runner for runner, engine in zip(runners, engines, strict=True)}

    def spy_allocate(table: SlotTable, count: int) -> tuple[Slot, ...] | None:
        slots = allocate(table, count)
        tables[id(table)]._hold([slot.row for slot in slots or ()])
        return slots

    def spy_free(table: SlotTable, slots: Iterable[Slot]) -> None:
        given = tuple(slots)
        free(table, given)
        tables[id(table)]._let_go([slot.row for slot in given])

    with mock.patch.object(SlotTable, "allocate", spy_allocate), mock.patch.object(SlotTable, "free", spy_free):
        yield


class World:
    """Engines behind a door, whose turns are driven by hand, or not.

    Args:
        runners: One a device.
        limits: Of each engine.
        publish: Takes the events.
        max_sessions: Of all together.
        evenness: When sessions are moved.
        clock: Of all.
        num_lanes: Runs side by side on each device.
    """

    def __init__(
        self,
        runners: Sequence[WatchedRunner],
        limits: EngineLimits,
        publish: Publish,
        max_sessions: int,
        evenness: Evenness,
        clock: Callable[[], float],
        num_lanes: int,
    ) -> None:
        self.engines: list[Engine] = []
        self.stops = 0
        self._num_lanes = num_lanes
        self._device_of: dict[int, int] = {}  # by plan

        def made_of(runner: WatchedRunner) -> Callable[[Publish, Callable[[], None]], Engine]:
            def make(publish: Publish, on_stopped: Callable[[], None]) -> Engine:
                engine = Engine(runner, limits, publish, on_stopped, clock, num_lanes)
                self.engines.append(engine)
                return engine

            return make

        self.door = Devices(
            [made_of(runner) for runner in runners], publish, self._stopped, max_sessions, evenness, clock
        )
        self.submit, self.cancel, self.close = self.door.submit, self.door.cancel, self.door.close

    def _stopped(self) -> None:
        self.stops += 1

    # ---------------------------------------------------------------------------- as one engine, lanes of all devices

    def begin(self, lane: int) -> Plan | None:
        device, lane = divmod(lane, self._num_lanes)
        plan = self.engines[device].begin(lane)
        self._device_of[id(plan)] = device
        return plan

    def finish(self, lane: int, outputs: Mapping[str, npt.NDArray[Any]] | Exception) -> None:
        device, lane = divmod(lane, self._num_lanes)
        self.engines[device].finish(lane, outputs)

    def device_of(self, plan: Plan) -> int:
        """Where a plan that is in flight runs."""
        return self._device_of[id(plan)]

    @property
    def is_quiet(self) -> bool:
        """Whether nobody is on the way and nothing has been asked that was not looked at."""
        return not len(self.door._moves) and not any(len(engine._inbox) for engine in self.engines)

    def check_integrity(self) -> None:
        self.door.check_integrity()
        for engine in self.engines:
            engine.check_integrity()

    def stats(self) -> EngineStats:
        return self.door.stats()
