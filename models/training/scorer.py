"""Evaluation of a model, a batch at a time."""

from abc import ABC, abstractmethod

from models.training.batches import Batch

HIGHER_IS_BETTER = {
    "accuracy": True,
    "f1": True,
    "bleu": True,
    "wer": False,
    "per": False,
    "perplexity": False,
    "bits_per_character": False,
    "loss": False,
}


class Scorer(ABC):
    """Adds up what the metrics need. Used in training and by `evaluate`, without gradients and in eval mode."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the batches so far."""

    @abstractmethod
    def add(self, batch: Batch) -> None:
        """Score a batch."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """The metrics of the batches so far, by name."""


def is_better(metric: str, value: float, than: float | None) -> bool:
    """Whether a value of a metric beats another; the first one always does, NaN never."""
    if value != value:
        return False
    return than is None or (value > than if HIGHER_IS_BETTER[metric] else value < than)
