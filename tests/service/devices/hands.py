"""Two engines behind one door whose turns are driven by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from service.devices.balance import Evenness
from service.engine.interface import (
    AnyRequest,
    CarriedSession,
    CloseSession,
    DescribeSessions,
    Event,
    Failed,
    Finished,
    Generate,
    OpenSession,
    Sampling,
    StepOutputs,
    StepSession,
)
from service.engine.limits import EngineLimits
from service.engine.session import Session
from service.engine.sessions import Sessions
from service.errors import Overloaded, ServiceError
from tests.service.devices.world import World, watching
from tests.service.engine.reference import INITIAL, STATE_BYTES
from tests.service.engine.watched import WatchedRunner

NEVER = Evenness(least=10**9)


class Hands:
    """Two devices; turns by hand."""

    def __init__(self, evenness: Evenness, max_sessions: int, limits: EngineLimits) -> None:
        self.now = 1000.0
        self.events: list[Event] = []
        self.runners = [WatchedRunner(2 + 2 + 2) for _ in range(2)]
        self.world = World(
            self.runners, limits, self.events.extend, max_sessions, evenness, lambda: self.now, num_lanes=1
        )
        self.door, self.engines = self.world.door, self.world.engines
        self.last_id = 0
        self.refused = 0

    def new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def ask(self, request: AnyRequest) -> int:
        self.door.submit(request)
        return request.id

    def open(self, idle_timeout_s: float | None = None) -> int:
        session = self.new_id()
        self.ask(OpenSession(self.new_id(), session, idle_timeout_s=idle_timeout_s))
        return session

    def step(self, session: int, *tokens: int) -> int:
        return self.ask(StepSession(self.new_id(), session, {"tokens": tokens}, len(tokens), 1))

    def close(self, session: int) -> int:
        return self.ask(CloseSession(self.new_id(), session))

    def describe(self, *sessions: int) -> int:
        return self.ask(DescribeSessions(self.new_id(), sessions))

    def generate(self) -> int:
        return self.ask(Generate(self.new_id(), (4, 5), Sampling(0.0, 0, 1.0, 0), 2))

    def turn(self, device: int) -> bool:
        """One turn of a device, with its run; whether there was one."""
        plan = self.engines[device].begin(0)
        if plan is None:
            return False
        self.engines[device].finish(0, self.runners[device].run(plan.graph, plan.inputs, plan.outputs))
        return True

    def run(self) -> None:
        while True:
            ran = [self.turn(device) for device in range(2)]
            if not any(ran) and self.world.is_quiet:
                self.world.check_integrity()
                return

    def sessions(self) -> tuple[int, int]:
        first, second = (engine.stats().sessions for engine in self.engines)
        return first, second

    def value(self, request: int) -> object:
        (event,) = [event for event in self.events if isinstance(event, Finished) and event.request == request]
        return event.value

    def error(self, request: int) -> ServiceError:
        (event,) = [event for event in self.events if isinstance(event, Failed) and event.request == request]
        return event.error

    def best(self, request: int) -> list[int]:
        outputs = self.value(request)
        assert isinstance(outputs, StepOutputs)
        return [next(iter(ids)) for ids in outputs.token_ids]

    def pinned(self) -> list[int]:
        """The sessions that there are."""
        return sorted(self.door._pins._pins)

    def fail(self, device: int) -> None:
        """A bug ends the engine of a device."""
        engine = self.engines[device]
        with engine._lock:
            engine._fail(RuntimeError("a bug"))
            engine._end()

    @contextmanager
    def refusing(self, device: int) -> Iterator[None]:
        """No session lands on a device."""
        land = Sessions.land
        sessions = self.engines[device]._roster.sessions

        def refuse(there: Sessions, session: int, carried: CarriedSession) -> Session:
            if there is sessions:
                self.refused += 1
                raise Overloaded("no room", 1.0)
            return land(there, session, carried)

        with mock.patch.object(Sessions, "land", refuse):
            yield

    def device_of(self, session: int) -> int:
        pin = self.door._pins.get(session)
        assert pin is not None
        return pin.device


@contextmanager
def hands(
    evenness: Evenness = NEVER,
    max_sessions: int = 100,
    max_waiting: int = 1024,
    max_host_bytes: int = 50 * STATE_BYTES,
) -> Iterator[Hands]:
    limits = EngineLimits(
        session_slots=2, max_sessions=50, max_host_bytes=max_host_bytes, max_waiting=max_waiting, max_queue_delay_s=1e12
    )
    made = Hands(evenness, max_sessions, limits)
    with watching(made.runners, made.engines):
        yield made
    for runner in made.runners:
        assert not runner.faults, runner.faults


def best_after(*tokens: int) -> int:
    """What a session answers to the last of its inputs."""
    state = INITIAL
    for token in tokens:
        state = state.step(token)
    return state.top(1)[0][0]
