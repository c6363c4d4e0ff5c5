"""What every task has: one request as a small state machine.

A task says what it wants to run next (`work`), gives its rows of the inputs (`take`), and takes its rows of the outputs
(`advance`), until it returns a Finished. It never touches the engine: slots and memory are given to it before it
starts and taken back when it ends, by the roster alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from service.decoding.errors import NotANumber
from service.engine.interface import Event, Request
from service.engine.pages import Memory
from service.engine.schedule import WorkItem
from service.engine.slots import Slot

TOP: Final = ("top_log_probs", "top_tokens")
AxisLists = list[Any]  # rows of the best outputs: a list a row, or for a chunk a list of lists


class Outputs:
    """The outputs of one batch. Lists are made once a batch, not once a row.

    Args:
        arrays: By output name, rows first; those of a chunk have a time axis after it.
        num_top: Most best outputs that anybody of the batch wants; None is all.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], num_top: int | None = None) -> None:
        self.arrays = arrays
        self._num_top = num_top
        self._broken: dict[str, bool] = {}
        self._kept: dict[str, npt.NDArray[Any]] = {}

    @cached_property
    def top_tokens(self) -> AxisLists:
        """(B, k) ids, best first; (B, T, k) of a chunk."""
        rows: AxisLists = self._cut("top_tokens").tolist()
        return rows

    @cached_property
    def top_log_probs(self) -> AxisLists:
        """(B, k) natural-log probabilities; (B, T, k) of a chunk."""
        rows: AxisLists = self._cut("top_log_probs").tolist()
        return rows

    def rows(self, name: str, row: int, count: int) -> npt.NDArray[Any]:
        """Some rows of an output, (count, ...), which the next run does not overwrite."""
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = self.arrays[name].copy()
        part: npt.NDArray[Any] = kept[row : row + count]
        return part

    def may_be_broken(self, name: str) -> bool:
        """Whether there can be NaN in an output: asked of each row, the batch is looked at once."""
        known = self._broken.get(name)
        if known is None:
            # A sum is NaN if anything in it is (or of both infinities), and costs a fifth of asking each.
            with np.errstate(invalid="ignore"):
                known = self._broken[name] = bool(np.isnan(np.add.reduce(self.arrays[name], axis=None)))
        return known

    def check_top(self, row: int) -> None:
        """Refuse NaN among the best of a row.

        Raises:
            NotANumber: There is one.
        """
        if self._any_broken and np.isnan(self.arrays["top_log_probs"][row]).any():
            raise NotANumber("expected log-probabilities from the model, got NaN")

    @cached_property
    def _any_broken(self) -> bool:
        return self.may_be_broken("top_log_probs")

    def _cut(self, name: str) -> npt.NDArray[Any]:
        array = self.arrays[name]
        return array if self._num_top is None else array[..., : self._num_top]


class Work(Protocol):
    """Whatever can have rows in a batch: a task, or a session with steps to take.

    Attributes:
        outputs: Graph outputs that it needs from that run.
        num_top: How many of the best outputs it needs; None is all.
        in_flight: Whether it is in a batch that runs.
        ready_since_s: Since when it has waited for that run, on the engine's clock.
    """

    ready_since_s: float
    outputs: Sequence[str]
    num_top: int | None
    in_flight: bool

    @property
    def work(self) -> WorkItem:
        """What it wants to run next."""

    def take(self, length: int) -> None:
        """Get ready to be run now, in a chunk of `length` steps (1: the step graph, 0: another graph)."""

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Take the outputs of the run; see `Task.advance`."""


class Task(ABC):
    """One request on its way through the engine.

    Attributes:
        request: What was asked.
        work: What it wants to run next.
        outputs: Graph outputs that it needs from that run.
        num_top: How many of the best outputs it needs; None is all.
        num_slots: State rows that it holds from start to end.
        num_positions: Source positions that it holds in the attention memory.
        slots: The rows, once started.
        memory: The memory, once started.
        in_flight: Whether it is in a batch that runs.
        ending: What to end it with when that batch comes back: it was cancelled, or its time ran out.
        ready_since_s: Since when it has waited for that run.
    """

    outputs: Sequence[str] = ()
    num_top: int | None = None
    num_slots: int = 0
    num_positions: int = 0
    slots: tuple[Slot, ...] = ()
    memory: Memory | None = None
    in_flight: bool = False
    ending: Event | None = None
    ready_since_s: float = 0.0

    def __init__(self, request: Request, work: WorkItem) -> None:
        self.request = request
        self.work = work

    def begin(self, slots: tuple[Slot, ...], memory: Memory | None) -> None:
        """Take what was asked for; from now on the task can run."""
        self.slots, self.memory = slots, memory

    def take(self, length: int) -> None:  # noqa: B027  # most are ready at any time
        """Get ready to be run now.

        Args:
            length: Steps of a chunk, at most `work.length`; 1 for the step graph, 0 for other graphs.
        """

    @abstractmethod
    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Take the outputs of the run that was asked for.

        Args:
            outputs: Of the whole batch.
            row: This task's first row.

        Returns:
            What happened: TokensDecided, and a Finished if this was the end.
        """


class Steps(Work, Protocol):
    """Work that runs the step or the chunk graph, in one or more rows.

    Attributes:
        inputs: By input name, one entry a row: an id, or a list of ids for a ragged input; of a chunk, a list of T of
            them.
        read_rows: State row that each row starts from.
        write_rows: State row that each row leaves its state in.
        memory: The attention memory that it reads, of a model that attends.
    """

    inputs: Mapping[str, Sequence[Any]]
    read_rows: Sequence[int]
    write_rows: Sequence[int]
    memory: Memory | None


class StepTask(Task):
    """A task that runs the step or the chunk graph; see `Steps`."""

    inputs: Mapping[str, Sequence[Any]]
    read_rows: Sequence[int] = ()
    write_rows: Sequence[int] = ()
