"""Read a prompt, then sample token by token."""

from collections.abc import Sequence

from models.symbols import EOS_ID
from service.decoding.sampling import sample, sample_from_top
from service.engine.interface import Event, Finished, Generate, TokensDecided
from service.engine.pages import Memory
from service.engine.schedule import WorkItem
from service.engine.slots import INITIAL_SLOT, Slot
from service.engine.tasks.task import TOP, Outputs, StepTask


class GenerateTask(StepTask):
    """One row of the step graph a token. The outputs are wanted from the last token of the prompt on.

    Args:
        request: What to generate; the prompt has at least one id.
        num_top: Best outputs a row that the graph gives. Where no more can be drawn, they are all that is asked of it.
    """

    num_slots = 1

    def __init__(self, request: Generate, num_top: int) -> None:
        super().__init__(request, WorkItem(request.id, "step", 1, 1))
        self._prompt = request.prompt
        self._sampling = sampling = request.sampling
        self._from_top = sampling.temperature > 0 and 0 < sampling.top_k <= num_top
        self._wanted = TOP if sampling.temperature == 0 or self._from_top else ("log_probs",)
        self._max_tokens = request.max_tokens
        self._num_read = 0
        self._num_sampled = 0
        self._ask_for(request.prompt[0], INITIAL_SLOT)

    def begin(self, slots: tuple[Slot, ...], memory: Memory | None) -> None:
        """Take the slot that the state will live in."""
        super().begin(slots, memory)
        self.write_rows = (slots[0].row,)

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """Go on reading, or draw the next token."""
        self._num_read += 1
        if self._num_read < len(self._prompt):
            self._ask_for(self._prompt[self._num_read], self.slots[0].row)
            return ()
        if self._sampling.temperature == 0:
            outputs.check_top(row)
            token, log_prob = outputs.top_tokens[row][0], outputs.top_log_probs[row][0]
        elif self._from_top:
            outputs.check_top(row)
            token, log_prob = sample_from_top(
                outputs.arrays["top_log_probs"][row],
                outputs.arrays["top_tokens"][row],
                self._sampling,
                self._num_sampled,
            )
        else:
            log_probs = outputs.arrays["log_probs"][row]  # (V,)
            token = sample(log_probs, self._sampling, self._num_sampled)
            log_prob = float(log_probs[token])
        if token == EOS_ID:
            return (Finished(self.request.id, "end"),)
        self._num_sampled += 1
        decided = TokensDecided(self.request.id, (token,), (log_prob,))
        if self._num_sampled == self._max_tokens:
            return (decided, Finished(self.request.id, "length"))
        self._ask_for(token, self.slots[0].row)
        return (decided,)

    def _ask_for(self, token: int, read_row: int) -> None:
        self.inputs = {"tokens": (token,)}
        self.read_rows = (read_row,)
        if self._num_read >= len(self._prompt) - 1:
            self.outputs = self._wanted
