"""Stateful stepping: a session is a slot that outlives its requests."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from service.engine.interface import CloseSession, Event, Finished, SessionId, StepOutputs, StepSession
from service.engine.schedule import WorkItem
from service.engine.slots import INITIAL_SLOT, Slot
from service.engine.tasks.task import TOP, Outputs, StepTask, empty_rows


class Session:
    """One open session.

    Attributes:
        id: Its name.
        slot: Where its state lives.
        num_steps: Steps taken in all.
        pending: Requests not yet ended, in order; the first is the one being worked on.
        closing: Whether its close was asked for: no more steps are taken.
    """

    def __init__(self, session: SessionId, slot: Slot) -> None:
        self.id = session
        self.slot = slot
        self.num_steps = 0
        self.pending: deque[SessionStepTask | CloseSession] = deque()
        self.closing = False


class SessionStepTask(StepTask):
    """The n steps of one request, one row of the step graph a turn, among everybody else's.

    Ended early (cancelled, out of time), it leaves the session after the steps that it took.

    Args:
        request: The inputs.
        session: Whose state moves.
    """

    def __init__(self, request: StepSession, session: Session) -> None:
        super().__init__(request, WorkItem(request.id, "step", 1, 1))
        self.session = session
        self.write_rows = (session.slot.row,)
        self.outputs = TOP if request.num_top else ()
        self._num_top = request.num_top
        self._num_steps = request.num_steps
        self._given = {name: array.tolist() for name, array in request.inputs.items()}
        self._taken: list[StepOutputs] = []
        self.inputs = self._given if request.num_steps == 1 else self._inputs_of(0)

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Keep the best outputs of the step."""
        self.session.num_steps += 1
        if self._num_top:
            outputs.check_top(row)
            one, num_top = slice(row, row + 1), self._num_top
            tokens = outputs.arrays["top_tokens"][one, :num_top]
            log_probs = outputs.arrays["top_log_probs"][one, :num_top]
        else:
            tokens, log_probs = empty_rows(1)
        taken = StepOutputs(tokens, log_probs, self.session.num_steps)
        if self._num_steps > 1:
            self._taken.append(taken)
            if len(self._taken) < self._num_steps:
                self.inputs = self._inputs_of(len(self._taken))
                self.resume()
                return ()
            taken = StepOutputs(
                np.concatenate([step.token_ids for step in self._taken]),
                np.concatenate([step.log_probs for step in self._taken]),
                self.session.num_steps,
            )
        return (Finished(self.request.id, taken),)

    def resume(self) -> None:
        """Read where the requests before have left the state."""
        self.read_rows = (self.session.slot.row if self.session.num_steps else INITIAL_SLOT,)

    def _inputs_of(self, step: int) -> dict[str, list[int]]:
        return {name: values[step : step + 1] for name, values in self._given.items()}
