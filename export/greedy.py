"""Greedy decoding of real inputs by two backends in step: the leader decides, the follower must have decided the same.

The follower reads what the leader chose, so each of its decisions is judged by itself; both decode the same text token
for token exactly if no decision differs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from export.backend import Array, Backend, Ints
from export.checks import FIRST, INITIAL
from export.manifest import Manifest
from export.real_inputs import Batch, Sample, memory_rows, tagger_batches, text_batches
from models.symbols import BOS_ID, EOS_ID
from models.tokenizer import Tokenizer

# A language model reads so many tokens of a text, then goes on for so many of its own.
PROMPT_TOKENS: Final = 32
NEW_TOKENS: Final = 32
DecodeTags = Callable[[Array, Ints], Ints]


@dataclass
class Decoded:
    """What was decided.

    Args:
        answers: The leader's, by sample.
        count: Decisions that both made.
        differing: How many of them differ.
        ties: How many more differ, but only between choices whose scores are equal within the tolerance: which of
            them is taken says nothing about either backend.
    """

    answers: dict[int, list[int]] = field(default_factory=dict)
    count: int = 0
    differing: int = 0
    ties: int = 0

    def judge(self, scores: Array, chosen: Ints, followed: Ints, real: npt.NDArray[np.bool_], tolerance: float) -> None:
        """Count decisions.

        Args:
            scores: (..., V), the leader's log-probabilities or scores.
            chosen: (...), the leader's choice.
            followed: (...), the follower's.
            real: (...), which are not padding.
            tolerance: Scores no further apart are a tie.
        """
        differ = (chosen != followed) & real
        of = [np.take_along_axis(scores, ids[..., None], axis=-1)[..., 0] for ids in (chosen, followed)]
        tied = differ & (of[0] - of[1] <= tolerance)
        self.count += int(real.sum())
        self.ties += int(tied.sum())
        self.differing += int((differ & ~tied).sum())


@dataclass(frozen=True)
class Greedy:
    """Decodes samples.

    Args:
        manifest: Of the bundle.
        samples: Raw inputs.
        tokenizers: By role.
        decode_tags: (B, T, K) emissions and (B,) lengths to (B, T) tags, of a tagger.
    """

    manifest: Manifest
    samples: Sequence[Sample]
    tokenizers: Mapping[str, Tokenizer]
    decode_tags: DecodeTags | None = None

    def decode(self, leader: Backend, follower: Backend | None = None, tolerance: float = 0.0) -> Decoded:
        """Decode every sample.

        Args:
            leader: Whose choices count.
            follower: Who is compared; None for answers alone.
            tolerance: See `Decoded`.
        """
        decoded = Decoded()
        pair = [leader] if follower is None else [leader, follower]
        if self.manifest.task == "tagger":
            self._tag(decoded, pair, tolerance)
        elif self.manifest.task == "encoder_decoder":
            for batch in text_batches(self.samples, "source", self.tokenizers["source"]):
                self._transduce(decoded, pair, tolerance, batch)
        else:
            for batch in text_batches(self.samples, "text", self.tokenizers["tokens"], [BOS_ID], PROMPT_TOKENS):
                self._continue(decoded, pair, tolerance, batch)
        return decoded

    def _tag(self, decoded: Decoded, pair: Iterable[Backend], tolerance: float) -> None:
        assert self.decode_tags is not None
        for batch in tagger_batches(self.samples, self.tokenizers):
            emissions, tags = [], []
            initial = initial_states(self.manifest, len(batch.lengths))
            for backend in pair:
                feeds = {**batch.feeds, "lengths": batch.lengths, **initial}
                emissions.append(backend.run("sequence", feeds)["emissions"])
                tags.append(self.decode_tags(emissions[-1], batch.lengths))
            real = np.arange(tags[0].shape[1]) < batch.lengths[:, None]
            if len(tags) > 1:
                decoded.judge(emissions[0], tags[0], tags[1], real, tolerance)
            for row, sample in enumerate(batch.samples):
                decoded.answers[sample] = tags[0][row, : batch.lengths[row]].tolist()

    def _transduce(self, decoded: Decoded, pair: Sequence[Backend], tolerance: float, batch: Batch) -> None:
        num_rows = len(batch.lengths)
        slots = FIRST + np.arange(num_rows)
        write, read = memory_rows(batch.lengths)
        for backend in pair:
            backend.allocate(FIRST + num_rows, FIRST + write.size)
            feeds = {"source": batch.feeds["ids"], "lengths": batch.lengths, "source_rows": write, "write_slots": slots}
            backend.run("encode", feeds)
        known = {"read_slots": slots, "write_slots": slots, "source_rows": read, "source_lengths": batch.lengths}
        tokens = np.full(num_rows, BOS_ID)
        alive = np.ones(num_rows, dtype=bool)
        for _ in range(self.manifest.decoding.max_tokens):
            tokens = self._step(decoded, pair, tolerance, {**known, "tokens": tokens}, alive)
            alive &= tokens != EOS_ID
            for row in np.flatnonzero(alive):
                decoded.answers.setdefault(batch.samples[row], []).append(int(tokens[row]))
            if not alive.any():
                break
        for sample in batch.samples:
            decoded.answers.setdefault(sample, [])

    def _continue(self, decoded: Decoded, pair: Sequence[Backend], tolerance: float, batch: Batch) -> None:
        num_rows, prompt = len(batch.lengths), batch.feeds["ids"]
        slots = FIRST + np.arange(num_rows)
        for backend in pair:
            backend.allocate(FIRST + num_rows, 0)
        tokens, reads = prompt[:, 0], np.full(num_rows, INITIAL)
        for step in range(1, prompt.shape[1] + NEW_TOKENS):
            feeds = {"tokens": tokens, "read_slots": reads, "write_slots": slots}
            alive = step < batch.lengths + NEW_TOKENS
            tokens, reads = self._step(decoded, pair, tolerance, feeds, alive), slots
            own = step >= batch.lengths
            for row in np.flatnonzero(own & alive):
                decoded.answers.setdefault(batch.samples[row], []).append(int(tokens[row]))
            if step < prompt.shape[1]:
                tokens = np.where(own, tokens, prompt[:, step])

    def _step(
        self, decoded: Decoded, pair: Sequence[Backend], tolerance: float, feeds: Mapping[str, Array], alive: Array
    ) -> Ints:
        """One step of all; the leader's choices (B,)."""
        outputs = [backend.run("step", feeds) for backend in pair]
        chosen = [best(found) for found in outputs]
        if len(pair) > 1:
            decoded.judge(outputs[0]["log_probs"], chosen[0], chosen[1], alive, tolerance)
        return chosen[0]


def best(outputs: Mapping[str, Array]) -> Ints:
    """The likeliest token (B,) of a step."""
    if "top_tokens" in outputs:
        return np.asarray(outputs["top_tokens"][:, 0], np.int64)
    return np.asarray(outputs["log_probs"].argmax(axis=-1), np.int64)


def initial_states(manifest: Manifest, num_rows: int) -> dict[str, Array]:
    """The initial states (B, ...) of a sequence graph, by input name."""
    states = [state for state in manifest.states if state.sequence_input is not None]
    return {str(state.sequence_input): np.zeros((num_rows, *state.shape), np.float32) for state in states}
