"""Evaluation of a tagger: token accuracy, and span F1 for BIO tags."""

from collections.abc import Sequence

import torch

from models.tagger import Tagger
from models.training.batches import Batch, TaggedBatch
from models.training.families import tagger_loss
from models.training.scorer import Scorer

Span = tuple[int, int, str]


class TaggerScorer(Scorer):
    """Compares the decoded tags with the right ones.

    Args:
        model: The tagger, in eval mode when used.
        tags: Tags in id order.
        bio: Whether the tags are spans, to be scored as such.
    """

    def __init__(self, model: Tagger, tags: Sequence[str], bio: bool) -> None:
        self._model, self._tags, self._bio = model, tags, bio
        self.reset()

    def reset(self) -> None:
        """Forget the batches so far."""
        self._right = self._words = 0
        self._loss = 0.0
        self._spans = SpanCounts()

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Score a batch of sentences."""
        assert isinstance(batch, TaggedBatch)
        emissions, _ = self._model(batch.words, batch.characters, batch.word_lengths, batch.lengths)
        self._loss += float(tagger_loss(self._model, emissions, batch))
        decoded = self._model.decode(emissions, batch.lengths).tolist()
        for length, got, right in zip(batch.lengths.tolist(), decoded, batch.tags.tolist(), strict=True):
            self._words += length
            self._right += sum(a == b for a, b in zip(got[:length], right[:length], strict=True))
            if self._bio:
                self._spans.add([self._tags[i] for i in got[:length]], [self._tags[i] for i in right[:length]])

    def metrics(self) -> dict[str, float]:
        """Accuracy (of words), loss (nats a word) and, for BIO tags, micro-averaged span f1."""
        metrics = {"accuracy": self._right / self._words, "loss": self._loss / self._words}
        return metrics | ({"f1": self._spans.f1()} if self._bio else {})


class SpanCounts:
    """Counts of spans found, to be found and found rightly. Source: Tjong Kim Sang and De Meulder 2003, section 2.3."""

    def __init__(self) -> None:
        self.right = self.predicted = self.expected = 0

    def add(self, predicted: Sequence[str], expected: Sequence[str]) -> None:
        """Count the spans of a sentence: a span is right if both ends and the type are."""
        got, want = spans(predicted), spans(expected)
        self.right += len(got & want)
        self.predicted += len(got)
        self.expected += len(want)

    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where nothing was found or to be found."""
        return 2 * self.right / (self.predicted + self.expected) if self.predicted + self.expected else 0.0


def spans(tags: Sequence[str]) -> set[Span]:
    """Read BIO tags as spans, (first, past the last, type).

    As conlleval does, an `I-x` that continues nothing begins a span.
    """
    found: set[Span] = set()
    start, kind = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, here = tag.partition("-")
        if kind and (prefix != "I" or here != kind):
            found.add((start, i, kind))
            kind = ""
        if prefix in ("B", "I") and not kind:
            start, kind = i, here
    return found
