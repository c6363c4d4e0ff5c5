"""Evaluation of a language model: perplexity and bits per character."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.language_model import LanguageModel
from models.symbols import PAD_ID
from models.training.batches import Batch, ChunkBatch
from models.training.scorer import Scorer


class LanguageScorer(Scorer):
    """Adds up the negative log-likelihood of every token; the state is carried from chunk to chunk.

    Args:
        model: The language model, in eval mode when used.
        characters: Whether tokens are characters.
    """

    def __init__(self, model: LanguageModel, characters: bool) -> None:
        self._model, self._characters = model, characters
        self.reset()

    def reset(self) -> None:
        """Forget the batches so far."""
        self._nats, self._tokens = 0.0, 0
        self._states: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Score a chunk of every track."""
        assert isinstance(batch, ChunkBatch)
        logits, self._states = self._model(batch.inputs, None, None if batch.first else self._states)
        nats = functional.cross_entropy(
            logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=PAD_ID, reduction="sum"
        )
        self._nats += float(nats)
        self._tokens += int((batch.targets != PAD_ID).sum())

    def metrics(self) -> dict[str, float]:
        """What `language_metrics` gives for the mean of the tokens so far."""
        return language_metrics(self._nats / self._tokens, self._characters)


def language_metrics(nats: float, characters: bool) -> dict[str, float]:
    """Put a mean negative log-likelihood a token in the usual forms.

    Args:
        nats: Natural logarithm. Perplexity is its exponential (not 2 to its power).
        characters: Whether tokens are characters: then also bits per character.
    """
    metrics = {"loss": nats, "perplexity": math.exp(nats) if nats < 700 else math.inf}
    return metrics | ({"bits_per_character": nats / math.log(2)} if characters else {})
