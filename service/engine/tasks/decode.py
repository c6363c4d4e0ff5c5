"""Encode a source once, then search for its best targets step by step."""

from collections.abc import Sequence

from models.symbols import BOS_ID, EOS_ID
from service.decoding.beam import BeamSearch
from service.decoding.greedy import GreedySearch
from service.engine.interface import Decode, Event, Finished, TokensDecided
from service.engine.schedule import WorkItem
from service.engine.tasks.task import TOP, Outputs, StepTask


class DecodeTask(StepTask):
    """First the encode graph, then the step graph with one row a live hypothesis.

    Hypothesis i leaves its state in slot i. Reordering the beam is reading another's slot: all rows of a batch read
    before any writes.

    Args:
        request: What to decode.
    """

    def __init__(self, request: Decode) -> None:
        super().__init__(request, WorkItem(request.id, "encode", 1, len(request.source)))
        self.source = request.source
        self.num_slots = request.beam_size
        self.num_positions = len(request.source)
        self._encoded = False
        alpha, max_tokens = request.length_penalty, request.max_tokens
        self._search: BeamSearch | GreedySearch = (
            GreedySearch(alpha, max_tokens, BOS_ID, EOS_ID)
            if request.beam_size == 1
            else BeamSearch(request.beam_size, request.num_best, alpha, max_tokens, BOS_ID, EOS_ID)
        )

    def advance(self, outputs: Outputs, row: int) -> Sequence[Event]:
        """After the encoder, start stepping; after a step, let the search decide."""
        if not self._encoded:
            self._encoded = True
            self.outputs = TOP
            self._ask_for_step()
            return ()
        rows = slice(row, row + self.work.rows)
        decided = self._search.advance(outputs.top_log_probs[rows], outputs.top_tokens[rows])
        events: list[Event] = []
        if decided:
            tokens, log_probs = zip(*decided, strict=True)
            events.append(TokensDecided(self.request.id, tokens, log_probs))
        if self._search.done:
            events.append(Finished(self.request.id, self._search.hypotheses()))
        else:
            self._ask_for_step()
        return events

    def _ask_for_step(self) -> None:
        tokens = self._search.tokens
        self.inputs = {"tokens": tokens}
        self.read_rows = [self.slots[parent].row for parent in self._search.parents]
        self.write_rows = [slot.row for slot in self.slots[: len(tokens)]]
        self.work = WorkItem(self.request.id, "step", len(tokens), 1, width=self.num_positions)
