"""One open session: where its state is, what it has been asked, and its steps as rows of a batch.

A session is what the scheduler plans for, not a step: requests wait in order at their session, and a run may take
inputs of several of them. There can be a hundred thousand of these, so they are small and an idle one owns no
containers.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Final

from service.engine.answers import Inputs, find_answer, pack_answer
from service.engine.host import HostRow
from service.engine.interface import (
    CloseSession,
    Event,
    ExportSession,
    Failed,
    Finished,
    ForkSession,
    LiftSession,
    MarkSession,
    Priority,
    RequestId,
    RewindSession,
    SessionId,
    StepOutputs,
    StepSession,
    StepTensors,
)
from service.engine.pages import Memory
from service.engine.schedule import WorkItem
from service.engine.slots import INITIAL_SLOT, Slot
from service.engine.tasks.task import TOP, Outputs
from service.errors import StepMismatch

STEPS: Final = (StepSession, StepTensors)
Step = StepSession | StepTensors
SessionRequest = Step | CloseSession | ForkSession | MarkSession | RewindSession | ExportSession | LiftSession
_NOTHING: Sequence[Any] = ()
_NOBODY: Final[list[SessionRequest]] = []  # shared by all idle sessions: never appended to


MAX_KEPT_BYTES: Final = 16_384  # of the answers of one session
_NO_WORK: Final = WorkItem(0, "step", 1, 1)


class Session:
    """See the module docstring; `service.engine.sessions` owns it.

    Attributes:
        id: Its name, and that of its work.
        slot: The row where its state lives; None: not in the pool.
        packed: Where its state is in host memory, if it is there. With neither, the session is at the initial state.
        look_s: When to look whether it has been idle for too long.
        started: Whether the slot holds its state already; if not, the first run reads the initial state.
        num_steps: Steps taken in all.
        pending: Requests not yet ended, in order.
        num_consumed: Inputs of the first pending request that were taken.
        dropped: Requests to be ended, and how, when the run in flight comes back.
    """

    __slots__ = (
        "_collected", "_length", "answered", "answers", "closing", "dropped", "id", "idle_timeout_s", "in_flight",
        "inputs", "last_used_s", "look_s", "marks", "num_consumed", "num_steps", "num_top", "opened_s", "outputs",
        "packed", "pending", "priority", "read_rows", "ready_since_s", "slot", "started", "work", "write_rows",
    )  # fmt: skip
    memory: Memory | None = None

    def __init__(
        self,
        session: SessionId,
        now: float,
        idle_timeout_s: float | None,
        priority: Priority,
        packed: HostRow | None,
        num_steps: int,
    ) -> None:
        self.id = session
        self.opened_s = self.last_used_s = now
        self.idle_timeout_s = idle_timeout_s
        self.look_s = now if idle_timeout_s is None else now + idle_timeout_s
        self.priority = priority
        self.packed = packed
        self.num_steps = num_steps
        self.slot: Slot | None = None
        self.started = False
        self.pending = _NOBODY
        self.closing = False
        self.num_consumed = 0
        self.answers: tuple[bytes, ...] = ()
        self.answered: tuple[Step, ...] = ()  # the requests that the last run ended, in order
        self.marks: dict[int, tuple[HostRow | None, int]] | None = None
        self.dropped: dict[RequestId, Event] | None = None
        self.in_flight = False
        self.work = _NO_WORK
        self.inputs: Any = None
        self.outputs: Sequence[str] = ()
        self.num_top: int | None = 0
        self.read_rows = self.write_rows = _NOTHING
        self._length = 0
        self.ready_since_s = now
        self._collected: list[tuple[Any, Any]] | None = None  # of the first pending request: tokens, log-probs a step

    def __lt__(self, other: "Session") -> bool:
        """Order sessions by when to look at them: a heap of sessions is a tenth of one of times and ids."""
        return self.look_s < other.look_s

    # ---------------------------------------------------------------------------------------------------- before a run

    def check_index(self, request: Step) -> Event | None:
        """Compare a step's index with what was taken: None to go on, or how the request ends.

        An answered index gives the stored answer again.
        """
        assert isinstance(request, StepSession)
        if request.first_step is None or request.first_step == self.num_steps:
            return None
        answer = find_answer(self.answers, request.first_step, request.inputs, request.num_steps)
        if answer is not None:
            return Finished(request.id, answer)
        return Failed(request.id, StepMismatch("step.first_step", self.num_steps, request.first_step))

    def group(self) -> Hashable:
        """With which other steps the next one can share a run: with any."""
        return None

    def backlog(self, most: int) -> int:
        """Inputs that could be taken in one run, up to `most`: of the first request and of steps that follow it."""
        pending = self.pending
        head: Any = pending[0]
        count: int = head.num_steps - self.num_consumed
        if count >= most or len(pending) == 1:
            return min(count, most)
        for request in pending[1:]:
            if not isinstance(request, StepSession) or request.first_step not in (None, self.num_steps + count):
                break
            count += request.num_steps
            if count >= most:
                return most
        return count

    def take(self, length: int) -> None:
        """Get the rows for `length` steps ready; the slot is there and holds the state if the session has one."""
        head: Any = self.pending[0]
        self._length = length
        if length == 1:
            self.num_top = head.num_top
            if head.num_steps == 1:
                self.inputs = head.inputs
            else:
                at = self.num_consumed
                self.inputs = {name: values[at : at + 1] for name, values in head.inputs.items()}
        else:
            self._take_many(length)
        self.outputs = TOP if self.num_top else ()
        assert self.slot is not None
        row = self.slot[0]
        self.write_rows = (row,)
        self.read_rows = self.write_rows if self.started else (INITIAL_SLOT,)

    def _take_many(self, length: int) -> None:
        parts: dict[str, list[Any]] = {}
        at, self.num_top, left = self.num_consumed, 0, length
        for request in self.pending:
            assert isinstance(request, StepSession)
            for name, values in request.inputs.items():
                parts.setdefault(name, []).extend(values[at : at + left])
            self.num_top = max(self.num_top, request.num_top)
            left -= request.num_steps - at
            at = 0
            if left <= 0:
                break
        self.inputs = {name: [values] for name, values in parts.items()}

    # ----------------------------------------------------------------------------------------------------- after a run

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Count the steps and end the requests whose last it was.

        Raises:
            NotANumber: The model gave some; the state is of no use any more.
        """
        self.started = True
        if self.num_top:
            outputs.check_top(row)
        if self._length == 1:
            top = (outputs.top_tokens[row], outputs.top_log_probs[row]) if self.num_top else None
            event = self._advance_one(top)
            return () if event is None else (event,)
        tokens: Sequence[Any] = outputs.top_tokens[row] if self.num_top else [None] * self._length
        log_probs: Sequence[Any] = outputs.top_log_probs[row] if self.num_top else tokens
        events = []
        for top in zip(tokens, log_probs, strict=True):
            event = self._advance_one(top if self.num_top else None)
            if event is not None:
                events.append(event)
        return events

    def _advance_one(self, top: tuple[Any, Any] | None) -> Event | None:
        head: Any = self.pending[0]
        num_top = head.num_top
        self.num_steps += 1
        if not num_top:
            tokens = log_probs = _NOTHING
        else:
            assert top is not None
            tokens, log_probs = top
            if len(tokens) != num_top:
                tokens, log_probs = tokens[:num_top], log_probs[:num_top]
        if head.num_steps == 1:
            outputs = StepOutputs((tokens,), (log_probs,), self.num_steps)
        else:
            if self._collected is None:
                self._collected = []
            self._collected.append((tokens, log_probs))
            self.num_consumed += 1
            if self.num_consumed < head.num_steps:
                return None
            all_tokens, all_log_probs = zip(*self._collected, strict=True)
            outputs = StepOutputs(all_tokens, all_log_probs, self.num_steps)
        self.answered = (*self.answered, head)
        self.pop()
        return Finished(head.id, outputs)

    def pop(self) -> None:
        """Take the first pending request off."""
        pending = self.pending
        if len(pending) == 1:
            self.pending = _NOBODY
        else:
            del pending[0]
        self.num_consumed, self._collected = 0, None

    def keep(self, outputs: StepOutputs, inputs: Inputs, most: int) -> None:
        """Keep an answer for the case that its steps are sent again.

        The oldest are forgotten beyond `most` answers and MAX_KEPT_BYTES; an answer larger than that is not kept.
        """
        answer = pack_answer(outputs.num_steps - len(outputs.token_ids), inputs, outputs)
        answers = (*self.answers[1 - most :], answer) if most > 1 else (answer,)
        while answers and sum(map(len, answers)) > MAX_KEPT_BYTES:
            answers = answers[1:]
        self.answers = answers

    def rest(self) -> None:
        """Let go of what only a run needs."""
        self.inputs = None
        self.read_rows = self.write_rows = _NOTHING
        self.work = _NO_WORK
