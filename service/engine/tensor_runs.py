"""Runs of imported models, which may break on what one caller sends: then only that caller is told so.

What a model of ours is fed was checked at the door. An imported model may fail on values (an index beyond its table)
that nobody but the model knows of. A batch that fails is run again by halves, down to the requests that cannot be run;
what had been written to the states of its rows is taken back first, so nobody's step is taken twice.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy.typing as npt

from export.manifest import GraphKind
from service.engine.tasks.task import Work
from service.engine.tensor_batch import tensor_feeds
from service.errors import InternalFailure, InvalidInput, ServiceError
from service.runtime.errors import RunEnded

Arrays = Mapping[str, npt.NDArray[Any]]
_BETWEEN_LINES_S: Final = 1.0  # of the log, however many runs fail
_log = logging.getLogger(__name__)


class Part(NamedTuple):
    """Some works of a batch, in row order, and what their run gave or how it failed."""

    works: Sequence[Work]
    outputs: Arrays | Exception


class PartRunner(Protocol):
    """What is needed of a runner."""

    @property
    def indexes_rows(self) -> bool:
        """Whether rows are read and written without copying a whole pool."""

    def run(self, kind: GraphKind, inputs: Arrays, outputs: Sequence[str], lane: int = 0) -> Mapping[str, Any]:
        """Run a graph once."""

    def read_rows(self, rows: Sequence[int]) -> Arrays:
        """Copy rows of the state pools out."""

    def write_rows(self, rows: Sequence[int], tensors: Arrays) -> None:
        """Set rows of the state pools."""


class TensorRuns:
    """See the module docstring. Used by all runner threads, each in its lane.

    Args:
        name: Of the model, for the log.
        runner: Runs its graph.
        time_axes: As `tensor_feeds` wants them.
    """

    def __init__(self, name: str, runner: PartRunner, time_axes: Mapping[str, int]) -> None:
        self._name, self._runner, self._time_axes = name, runner, time_axes
        self._silent_until_s = 0.0

    def run(
        self, graph: GraphKind, works: Sequence[Work], inputs: Arrays, outputs: Sequence[str], lane: int
    ) -> list[Part]:
        """Run a batch; what it breaks on is found by halves."""
        steps = graph == "step"
        # Where rows cannot be indexed, saving them would copy the whole pool: then all of the batch fail with one.
        apart = len(works) > 1 and (not steps or self._runner.indexes_rows)
        rows = [row for work in works for row in getattr(work, "write_rows", ())] if steps and apart else []
        saved = self._runner.read_rows(rows) if rows else {}
        try:
            return [Part(works, self._runner.run(graph, inputs, outputs, lane))]
        except RunEnded as error:  # each half could take as long
            return [Part(works, error)]
        except Exception as error:
            self._complain(error, len(works))
            if not apart:
                return [Part(works, error)]
        parts: list[Part] = []
        pieces = [range(len(works) // 2), range(len(works) // 2, len(works))]
        if rows:
            self._runner.write_rows(rows, saved)
        while pieces:
            piece = pieces.pop(0)
            some = [works[i] for i in piece]
            try:
                got = self._runner.run(graph, tensor_feeds(graph, some, self._time_axes), outputs, lane)
            except RunEnded as error:
                parts.append(Part(some, error))
            except Exception as error:
                if rows:
                    theirs = {name: values[piece.start : piece.stop] for name, values in saved.items()}
                    self._runner.write_rows(rows[piece.start : piece.stop], theirs)
                if len(piece) == 1:
                    parts.append(Part(some, error))
                else:
                    middle = (piece.start + piece.stop) // 2
                    pieces[:0] = [range(piece.start, middle), range(middle, piece.stop)]
            else:  # the next run in the lane overwrites them
                parts.append(Part(some, {name: array.copy() for name, array in got.items()}))
        return parts

    def _complain(self, error: Exception, num_works: int) -> None:
        """One line, and not for each: callers decide how many there are."""
        now_s = time.monotonic()
        if now_s >= self._silent_until_s:
            self._silent_until_s = now_s + _BETWEEN_LINES_S
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            _log.warning("model %s: a run of %d requests failed: %s", self._name, num_works, reason)


def told(error: Exception, alone: bool) -> ServiceError:
    """What callers are told of a failed run.

    Args:
        error: How it failed.
        alone: Whether only one request was in it.
    """
    if isinstance(error, RunEnded):
        return InternalFailure("the run of the model on this request, or on one beside it, took too long and was ended")
    if alone:
        return InvalidInput("inputs", "values that the model can be run on", "some on which it fails")
    return InternalFailure("the model failed on this request")
