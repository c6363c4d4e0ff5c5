"""Read a prompt, then sample token by token."""

from collections.abc import Sequence

from models.symbols import EOS_ID
from service.decoding.sampling import Sampler
from service.engine.interface import Event, Finished, Generate, TokensDecided
from service.engine.pages import Memory
from service.engine.schedule import WorkItem
from service.engine.slots import INITIAL_SLOT, Slot
from service.engine.tasks.task import TOP, Outputs, StepTask


class GenerateTask(StepTask):
    """One row of the step graph a token; the prompt but for its last token is a backlog that chunks may take.

    Outputs are wanted from the last token of the prompt on: the model's best alone where the next token must be among
    them, else the whole row.

    Args:
        request: What to generate; the prompt has at least one id.
        num_top: Best outputs a row that the graph gives.
    """

    num_slots = 1
    num_top = 1  # a greedy token; what is drawn is drawn from the arrays

    def __init__(self, request: Generate, num_top: int) -> None:
        super().__init__(request, WorkItem(request.id, "step", 1, max(1, len(request.prompt) - 1)))
        self._prompt = request.prompt
        self._max_tokens = request.max_tokens
        self._graph_top = num_top
        self._sampler = Sampler(request.sampling, request.prompt, request.max_tokens)
        self._num_read = 0  # of the prompt
        self._num_taken = 0  # of the prompt, by the run that was asked for
        self._next = request.prompt[0]
        self._num_sampled = 0
        self.read_rows = (INITIAL_SLOT,)

    def begin(self, slots: tuple[Slot, ...], memory: Memory | None) -> None:
        """Take the slot that the state will live in."""
        super().begin(slots, memory)
        self.write_rows = (slots[0].row,)

    def take(self, length: int) -> None:
        """Feed the last token drawn, or the next `length` of the prompt."""
        left = len(self._prompt) - self._num_read
        self._num_taken = min(length, left)
        if length > 1:
            self.inputs = {"tokens": (list(self._prompt[self._num_read : self._num_read + length]),)}
        else:
            self.inputs = {"tokens": (self._prompt[self._num_read] if left else self._next,)}
        if left > length:
            self.outputs = ()
        else:
            needed = self._sampler.num_needed
            self.outputs = TOP if 0 < needed <= self._graph_top else ("log_probs",)

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Go on reading, or draw the next token."""
        self._num_read += self._num_taken
        self.read_rows = self.write_rows
        if not self.outputs:
            self._set_backlog()
            return ()
        token, log_prob = self._draw(outputs, row)
        if token == EOS_ID:
            return (Finished(self.request.id, "end"),)
        self._num_sampled += 1
        decided = TokensDecided(self.request.id, (token,), (log_prob,))
        if self._num_sampled == self._max_tokens:
            return (decided, Finished(self.request.id, "length"))
        self._next = token
        return (decided,)

    def _draw(self, outputs: Outputs, row: int) -> tuple[int, float]:
        if self.outputs != TOP:
            return self._sampler.draw(outputs.arrays["log_probs"][row])
        outputs.check_top(row)
        if self._sampler.takes_best:
            return outputs.top_tokens[row][0], outputs.top_log_probs[row][0]
        arrays = outputs.arrays
        return self._sampler.draw_from_top(arrays["top_log_probs"][row], arrays["top_tokens"][row])

    def _set_backlog(self) -> None:
        """The last token of the prompt is left to a step: a chunk does not give whole rows."""
        length = max(1, len(self._prompt) - 1 - self._num_read)
        if length != self.work.length:
            self.work = self.work._replace(length=length)
