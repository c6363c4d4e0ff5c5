"""Drives a real engine from a test: collects events, waits for ends, and checks what must always hold."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from export.manifest import Manifest
from service.engine import engine as engine_module
from service.engine.engine import Engine
from service.engine.interface import (
    AnyRequest,
    Cancelled,
    CloseSession,
    Event,
    Failed,
    Finished,
    Hypothesis,
    OpenSession,
    RequestId,
    SessionEnded,
    SessionSteps,
    StepOutputs,
    StepSession,
    TokensDecided,
)
from service.engine.limits import EngineLimits
from service.engine.runs import GraphRunner
from service.engine.slots import NUM_RESERVED
from service.runtime.opening import open_runner
from service.runtime.runner import Runner, RunnerConfig

PATIENCE_S = 30.0
NO_SESSIONS = EngineLimits(session_slots=0, max_sessions=0)
_FIRST_ID = 1_000_000  # of requests; sessions of tests have small numbers, for the two never coincide


def open_tiny(folder: Path, manifest: Manifest, num_slots: int = 64, num_memory_rows: int = 1024) -> Runner:
    return open_runner(folder, manifest, RunnerConfig("cpu", 1, num_slots, num_memory_rows))


class Harness:
    """Publishes to itself. Every wait is for a condition, bounded by PATIENCE_S."""

    def __init__(self) -> None:
        self.events: dict[RequestId, list[Event]] = {}
        self.ended: list[SessionEnded] = []
        self.changed = threading.Condition()
        self.stopped = threading.Event()  # by a bug
        self.engine: Engine
        self._last_id = _FIRST_ID
        self._admitted: list[RequestId] = []

    def publish(self, events: Sequence[Event]) -> None:
        with self.changed:
            for event in events:
                if isinstance(event, SessionEnded):
                    self.ended.append(event)
                else:
                    self.events.setdefault(event.request, []).append(event)
            self.changed.notify_all()

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def submit(self, request: AnyRequest) -> RequestId:
        self.engine.submit(request)
        self._admitted.append(request.id)
        return request.id

    def finish(self) -> None:
        """Wait until everything that was admitted has ended."""
        for request in self._admitted:
            self.wait(request)

    def wait(self, request: RequestId) -> Event:
        """The terminal event of a request; that there is just one is checked at the end of `running`."""
        with self.changed:
            assert self.changed.wait_for(lambda: self._ended(request), PATIENCE_S), f"request {request} never ended"
            return self.events[request][-1]

    def wait_for_events(self, request: RequestId, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.events.get(request, ())) >= count, PATIENCE_S)

    def value(self, request: RequestId) -> object:
        event = self.wait(request)
        assert isinstance(event, Finished), event
        return event.value

    def hypotheses(self, request: RequestId) -> list[Hypothesis]:
        value = self.value(request)
        assert isinstance(value, list)
        return value

    def best(self, request: RequestId) -> Hypothesis:
        return self.hypotheses(request)[0]

    def error(self, request: RequestId) -> Exception:
        event = self.wait(request)
        assert isinstance(event, Failed), event
        return event.error

    def decided(self, request: RequestId) -> list[int]:
        """All tokens that were streamed so far."""
        events = self.events[request]
        return [token for event in events if isinstance(event, TokensDecided) for token in event.tokens]

    def open(self, session: int) -> None:
        self.value(self.submit(OpenSession(self.new_id(), session)))

    def step(self, session: int, tokens: Sequence[int], num_top: int = 1, deadline_s: float | None = None) -> RequestId:
        inputs = {"tokens": list(tokens)}
        return self.submit(StepSession(self.new_id(), session, inputs, len(tokens), num_top, deadline_s=deadline_s))

    def outputs(self, request: RequestId) -> StepOutputs:
        value = self.value(request)
        assert isinstance(value, StepOutputs)
        return value

    def steps(self, session: int, tokens: Sequence[int], num_top: int = 1) -> list[list[int]]:
        """The best tokens of each step."""
        return [list(best) for best in self.outputs(self.step(session, tokens, num_top)).token_ids]

    def num_steps(self, request: RequestId) -> int:
        value = self.value(request)
        assert isinstance(value, SessionSteps)
        return value.num_steps

    def close(self, session: int) -> int:
        """The steps that the session has taken in all."""
        return self.num_steps(self.submit(CloseSession(self.new_id(), session)))

    def check_one_end_each(self) -> None:
        for request, events in self.events.items():
            ends = [event for event in events if isinstance(event, Finished | Failed | Cancelled)]
            assert len(ends) == 1 and events[-1] is ends[0], (request, events)

    def _ended(self, request: RequestId) -> bool:
        return isinstance(self.events.get(request, [None])[-1], Finished | Failed | Cancelled)


@contextmanager
def running(
    runner: GraphRunner,
    limits: EngineLimits | None = None,
    harness: Harness | None = None,
    num_runners: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Harness]:
    """A started engine; at the end everything must have come back and every request have ended once."""
    harness = harness or Harness()
    if limits is None:
        session_slots = runner.num_slots - NUM_RESERVED - 1
        limits = EngineLimits(session_slots=session_slots, max_sessions=session_slots)
    harness.engine = Engine(runner, limits, harness.publish, harness.stopped.set, clock, num_runners)
    try:
        # No routine waking: an engine that forgets to wake up is caught.
        with mock.patch.object(engine_module, "_IDLE_WAIT_S", 10 * PATIENCE_S):
            harness.engine.start()
            yield harness
            harness.finish()
    finally:
        harness.engine.close()
    harness.engine.check_integrity()
    stats = harness.engine.stats()
    assert (stats.free_slots, stats.free_memory_rows) == (stats.num_slots, stats.num_memory_rows)
    assert (stats.waiting, stats.running, stats.sessions, stats.host_state_bytes) == (0, 0, 0, 0)
    harness.check_one_end_each()
