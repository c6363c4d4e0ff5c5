"""What every task has: one request as a small state machine.

A task says what it wants to run next (`work`), gives its rows of the inputs, and takes its rows of the outputs
(`advance`), until it returns a Finished. It never touches the engine: slots and memory are given to it before it
starts and taken back when it ends, by the roster alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.decoding.errors import NotANumber
from service.engine.interface import Event, Request
from service.engine.pages import Memory
from service.engine.schedule import WorkItem
from service.engine.slots import Slot

TOP: Final = ("top_log_probs", "top_tokens")


class Outputs:
    """The outputs of one batch. Lists are made once a batch, not once a row.

    Args:
        arrays: By output name, rows first.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.arrays = arrays

    @cached_property
    def top_tokens(self) -> list[list[int]]:
        """(B, k) ids, best first."""
        ids: list[list[int]] = self.arrays["top_tokens"].tolist()
        return ids

    @cached_property
    def top_log_probs(self) -> list[list[float]]:
        """(B, k) natural-log probabilities."""
        log_probs: list[list[float]] = self.arrays["top_log_probs"].tolist()
        return log_probs

    def check_top(self, row: int) -> None:
        """Refuse NaN among the best of a row.

        Raises:
            NotANumber: There is one.
        """
        if self._broken_rows and row in self._broken_rows:
            raise NotANumber("expected log-probabilities from the model, got NaN")

    @cached_property
    def _broken_rows(self) -> frozenset[int]:
        return frozenset(np.flatnonzero(np.isnan(self.arrays["top_log_probs"]).any(axis=1)).tolist())


class Task(ABC):
    """One request on its way through the engine.

    Attributes:
        request: What was asked.
        work: What it wants to run next.
        outputs: Graph outputs that it needs from that run.
        num_slots: State rows that it holds from start to end.
        num_positions: Source positions that it holds in the attention memory.
        slots: The rows, once started.
        memory: The memory, once started.
    """

    outputs: Sequence[str] = ()
    num_slots: int = 0
    num_positions: int = 0
    slots: tuple[Slot, ...] = ()
    memory: Memory | None = None

    def __init__(self, request: Request, work: WorkItem) -> None:
        self.request = request
        self.work = work

    def begin(self, slots: tuple[Slot, ...], memory: Memory | None) -> None:
        """Take what was asked for; from now on the task can run."""
        self.slots, self.memory = slots, memory

    @abstractmethod
    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Take the outputs of the run that was asked for.

        Args:
            outputs: Of the whole batch.
            row: This task's first row.

        Returns:
            What happened: TokensDecided, and a Finished if this was the end.
        """


class StepTask(Task):
    """A task that runs the step graph, in one or more rows.

    Attributes:
        inputs: By input name, one entry a row: an id, or a list of ids for a ragged input.
        read_rows: State row that each row starts from.
        write_rows: State row that each row leaves its state in.
    """

    inputs: Mapping[str, Sequence[int] | Sequence[Sequence[int]]]
    read_rows: Sequence[int] = ()
    write_rows: Sequence[int] = ()


def empty_rows(num_steps: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Best outputs of steps of which none were wanted: (n, 0) ids and log-probabilities."""
    return np.empty((num_steps, 0), dtype=np.int64), np.empty((num_steps, 0), dtype=np.float32)
