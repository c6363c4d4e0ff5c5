"""Evaluation of an encoder-decoder: what it decodes against what is right, and its loss."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional

from models.data.examples import Pair
from models.encoder_decoder import EncoderDecoder
from models.search import beam_search, greedy_search
from models.symbols import PAD_ID
from models.tokenizer import Tokenizer
from models.training.batches import Batch, PairBatch
from models.training.scorer import Scorer
from models.training.text_metrics import accuracy, bleu, error_rates

PairMetric = Literal["error_rates", "bleu", "accuracy"]


class PairScorer(Scorer):
    """Decodes each source and compares texts.

    Args:
        model: The encoder-decoder, in eval mode when used.
        target: Tokenizer of the answers.
        pairs: The examples that `PairBatch.rows` counts.
        metric: error_rates: wer (of whole answers) and per (of tokens); bleu; accuracy (of whole answers).
        max_tokens: Longest answer.
        beam_size: 1 is greedy.
        length_penalty: Exponent alpha of Wu et al. 2016.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        target: Tokenizer,
        pairs: Sequence[Pair],
        metric: PairMetric,
        max_tokens: int,
        beam_size: int = 1,
        length_penalty: float = 0.6,
    ) -> None:
        self._model, self._target, self._pairs, self._metric = model, target, pairs, metric
        self._max_tokens, self._beam_size, self._length_penalty = max_tokens, beam_size, length_penalty
        self.reset()

    def reset(self) -> None:
        """Forget the batches so far."""
        self._loss, self._tokens = 0.0, 0
        self.answers: dict[int, str] = {}
        """Decoded text by row of `pairs`."""

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Score a batch of pairs."""
        assert isinstance(batch, PairBatch)
        logits = self._model(batch.source, batch.source_lengths, batch.target_in).float()
        loss = functional.cross_entropy(
            logits.flatten(0, 1), batch.target_out.flatten(), ignore_index=PAD_ID, reduction="sum"
        )
        self._loss += float(loss)
        self._tokens += int((batch.target_out != PAD_ID).sum())
        for row, ids in zip(batch.rows.tolist(), self._decode(batch), strict=True):
            self.answers[row] = self._target.decode(ids)

    def _decode(self, batch: PairBatch) -> list[tuple[int, ...]]:
        """The best target of each source, ids without `<s>` and `</s>`."""
        if self._beam_size == 1:
            found = greedy_search(self._model, batch.source, batch.source_lengths, self._max_tokens)
            return [hypothesis.tokens for hypothesis in found]
        found_lists = beam_search(
            self._model, batch.source, batch.source_lengths, self._beam_size, self._max_tokens, self._length_penalty
        )
        return [hypotheses[0].tokens for hypotheses in found_lists]

    def metrics(self) -> dict[str, float]:
        """The configured metrics and the loss (nats a target token, `</s>` included)."""
        rows = sorted(self.answers)
        answers, references = [self.answers[i] for i in rows], [self._pairs[i].targets for i in rows]
        return pair_metrics(self._metric, answers, references) | {"loss": self._loss / max(1, self._tokens)}


def pair_metrics(metric: PairMetric, answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compare answers with everything that counts as right; see `PairScorer`."""
    if metric == "error_rates":
        wer, per = error_rates(answers, references)
        return {"wer": wer, "per": per}
    if metric == "bleu":
        return {"bleu": bleu(answers, references)}
    return {"accuracy": accuracy(answers, references)}
