"""Drives a real engine from a test: collects events, waits for ends, and checks what must always hold."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest
from service.engine import engine as engine_module
from service.engine.engine import Engine, EngineLimits, GraphRunner
from service.engine.interface import (
    Cancelled,
    CloseSession,
    Event,
    Failed,
    Finished,
    Hypothesis,
    OpenSession,
    Request,
    RequestId,
    StepOutputs,
    StepSession,
    TokensDecided,
)
from service.runner import Runner, RunnerConfig, open_runner

PATIENCE_S = 30.0


def open_tiny(folder: Path, manifest: Manifest, num_slots: int = 64, num_memory_rows: int = 1024) -> Runner:
    return open_runner(folder, manifest, RunnerConfig("cpu", 1, num_slots, num_memory_rows))


class Harness:
    """Publishes to itself. Every wait is for a condition, bounded by PATIENCE_S."""

    def __init__(self) -> None:
        self.events: dict[RequestId, list[Event]] = {}
        self.changed = threading.Condition()
        self.stopped = threading.Event()  # by a bug
        self.engine: Engine
        self._last_id = 0
        self._admitted: list[RequestId] = []

    def publish(self, events: Sequence[Event]) -> None:
        with self.changed:
            for event in events:
                self.events.setdefault(event.request, []).append(event)
            self.changed.notify_all()

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def submit(self, request: Request) -> RequestId:
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

    def step(self, session: int, tokens: Sequence[int], num_top: int = 1, name: str = "tokens") -> RequestId:
        inputs = {name: np.array(tokens, dtype=np.int64)}
        return self.submit(StepSession(self.new_id(), session, inputs, len(tokens), num_top))

    def steps(self, session: int, tokens: Sequence[int], num_top: int = 1) -> npt.NDArray[np.int64]:
        outputs = self.value(self.step(session, tokens, num_top))
        assert isinstance(outputs, StepOutputs)
        return outputs.token_ids

    def close(self, session: int) -> object:
        return self.value(self.submit(CloseSession(self.new_id(), session)))

    def check_one_end_each(self) -> None:
        for request, events in self.events.items():
            ends = [event for event in events if isinstance(event, Finished | Failed | Cancelled)]
            assert len(ends) == 1 and events[-1] is ends[0], (request, events)

    def _ended(self, request: RequestId) -> bool:
        return isinstance(self.events.get(request, [None])[-1], Finished | Failed | Cancelled)


@contextmanager
def running(
    runner: GraphRunner, limits: EngineLimits | None = None, harness: Harness | None = None
) -> Iterator[Harness]:
    """A started engine; at the end everything must have come back and every request have ended once."""
    harness = harness or Harness()
    usable = runner.num_slots - 2
    harness.engine = Engine(
        runner, limits or EngineLimits(max_sessions=usable - 1), harness.publish, harness.stopped.set
    )
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
    assert (stats.waiting, stats.running, stats.sessions) == (0, 0, 0)
    harness.check_one_end_each()
