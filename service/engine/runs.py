"""Batches put together and run: what the engine asks of it, whatever the model is, and how a model of ours does it."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from export.manifest import GraphKind, Manifest
from service.engine.batch import feeds, row_inputs
from service.engine.tasks.task import Work
from service.errors import InternalFailure, ServiceError
from service.runtime.errors import is_device_lost

Arrays = Mapping[str, npt.NDArray[Any]]
_log = logging.getLogger(__name__)


class GraphRunner(Protocol):
    """What the engine needs of a runner; `service.runtime.runner.Runner` is one, and tests have others."""

    manifest: Manifest
    num_slots: int
    num_memory_rows: int

    @property
    def indexes_rows(self) -> bool:
        """Whether rows are read and written where they lie, and not by way of the whole pool."""

    def run(self, kind: GraphKind, inputs: Arrays, outputs: Sequence[str], lane: int = 0) -> Arrays:
        """Run a graph once, updating the pools. What comes out is good until the next one in the lane."""

    def end_run(self, lane: int) -> None:
        """End the run that is under way in a lane."""

    def read_rows(self, rows: Sequence[int]) -> Arrays:
        """Copy rows of the state pools out: by state name, (len(rows), *shape)."""

    def write_rows(self, rows: Sequence[int], tensors: Arrays) -> None:
        """Set rows of the state pools from the same."""


class Plan(NamedTuple):
    """One batch on its way: what `GraphRunner.run` takes, and who is in it; `whole` unless some have left."""

    graph: GraphKind
    inputs: Arrays
    outputs: tuple[str, ...]
    works: Sequence[Work]
    num_rows: int
    began_s: float
    whole: bool = True


class Part(NamedTuple):
    """Some works of a batch, in row order, and what their run gave, or what they are told of how it failed."""

    works: Sequence[Work]
    outputs: Arrays | ServiceError


Deliver = Callable[[Sequence[Part]], None]


class Runs(Protocol):
    """Puts the batches of one model together and runs them. Used by all runner threads, each in its lane."""

    def feeds(self, graph: GraphKind, works: Sequence[Work], num_rows: int) -> Arrays:
        """Inputs of a batch, by name.

        Args:
            graph: Which one.
            works: In row order.
            num_rows: Rows that a step of ours is padded to; fewer than there are: not at all.
        """

    def run(self, plan: Plan, lane: int, deliver: Deliver) -> Sequence[Part]:
        """Run a batch; each of its works is in one of the parts.

        Args:
            plan: The batch.
            lane: Where.
            deliver: Takes parts that need not wait for the others, which are then not returned: the others are slow.

        Raises:
            Exception: The model cannot go on: its GPU is lost, or what its states are now is not known.
        """

    def start(self) -> None:
        """Called before the first run."""

    def end(self, lanes: Iterable[int]) -> None:
        """End the runs that are under way in some lanes: nobody waits for them any more."""

    def close(self) -> None:
        """Called after the last run."""


class TrainedRuns:
    """Runs of a model of ours. What it is fed was checked at the door: a run that fails is nobody's doing.

    Args:
        runner: Runs the graphs.
    """

    def __init__(self, runner: GraphRunner) -> None:
        self._runner = runner
        graphs = runner.manifest.graphs
        self._step_inputs = row_inputs(graphs["step"]) if "step" in graphs else {}

    def feeds(self, graph: GraphKind, works: Sequence[Work], num_rows: int) -> Arrays:
        """Inputs of a batch; see `Runs`."""
        return feeds(graph, self._step_inputs, works, num_rows)

    def run(self, plan: Plan, lane: int, deliver: Deliver) -> Sequence[Part]:
        """Run a batch; see `Runs`."""
        try:
            return (Part(plan.works, self._runner.run(plan.graph, plan.inputs, plan.outputs, lane)),)
        except Exception as error:
            if is_device_lost(error):
                raise
            _log.exception("engine %s: a %s batch failed", self._runner.manifest.name, plan.graph)
            return (Part(plan.works, failure()),)

    def start(self) -> None:
        """Nothing needs to be ready."""

    def end(self, lanes: Iterable[int]) -> None:
        """End runs; see `Runs`."""
        for lane in lanes:
            self._runner.end_run(lane)

    def close(self) -> None:
        """Nothing is held."""


def failure() -> InternalFailure:
    """What callers are told of a failure that is not theirs."""
    return InternalFailure("the model failed on this request")
