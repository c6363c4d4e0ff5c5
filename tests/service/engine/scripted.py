"""A runner with a script: what happens just before each run is decided by the test, not by luck."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from export.manifest import GraphKind
from service.runtime.runner import Runner
from tests.service.engine.harness import PATIENCE_S

Feeds = Mapping[str, npt.NDArray[Any]]


class ScriptedRunner:
    """Runs for real, after calling `before(number of the run, graph, feeds)`.

    Attributes:
        calls: Graph and rows of every run so far.
    """

    def __init__(self, runner: Runner, before: Callable[[int, GraphKind, Feeds], None] = lambda *_: None) -> None:
        self.manifest = runner.manifest
        self.num_slots = runner.num_slots
        self.num_memory_rows = runner.num_memory_rows
        self.indexes_rows = runner.indexes_rows
        self.calls: list[tuple[GraphKind, int]] = []
        self.before = before
        self._runner = runner
        self.read_rows, self.write_rows, self.end_run = runner.read_rows, runner.write_rows, runner.end_run

    def run(self, kind: GraphKind, inputs: Feeds, outputs: Sequence[str], lane: int = 0) -> dict[str, npt.NDArray[Any]]:
        self.calls.append((kind, len(next(iter(inputs.values())))))
        self.before(len(self.calls), kind, inputs)
        return self._runner.run(kind, inputs, outputs, lane)


class Gate:
    """Stops the engine inside a run until the test lets it go on."""

    def __init__(self) -> None:
        self._inside = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)
        self._open = False

    def stop(self) -> None:
        """For a runner thread."""
        if not self._open:
            self._inside.release()
            assert self._go_on.acquire(timeout=PATIENCE_S)

    def wait_inside(self) -> None:
        """Until a runner thread stands in a run."""
        assert self._inside.acquire(timeout=PATIENCE_S)

    def let_go(self) -> None:
        """On to the next run."""
        self._go_on.release()

    def open(self) -> None:
        """For good."""
        self._open = True
        self._go_on.release()
