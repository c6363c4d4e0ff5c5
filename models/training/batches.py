"""What a training step gets, and who hands it out."""

from typing import NamedTuple, Protocol

from torch import Tensor


class TaggedBatch(NamedTuple):
    """Sentences with tags.

    Args:
        words: (B, T) int64, padded with `<pad>`.
        characters: (B, T, C) int64, likewise.
        word_lengths: Characters of each word, (B, T) int64; 1 where there is no word.
        lengths: Words of each sentence, (B,) int64.
        tags: (B, T) int64, padded with 0.
        rows: Which examples these are, (B,) int64.
    """

    words: Tensor
    characters: Tensor
    word_lengths: Tensor
    lengths: Tensor
    tags: Tensor
    rows: Tensor


class PairBatch(NamedTuple):
    """Sources with a target each.

    Args:
        source: (B, S) int64, padded with `<pad>`.
        source_lengths: (B,) int64.
        target_in: `<s> y1 .. yn`, (B, T) int64, padded with `<pad>`.
        target_out: `y1 .. yn </s>`, (B, T) int64, padded with `<pad>`.
        rows: Which sources these are, (B,) int64.
    """

    source: Tensor
    source_lengths: Tensor
    target_in: Tensor
    target_out: Tensor
    rows: Tensor


class ChunkBatch(NamedTuple):
    """Some steps of parallel tracks of text.

    Args:
        inputs: (B, T) int64.
        targets: (B, T) int64, padded with `<pad>`.
        first: Whether the tracks begin here; else the state is carried over from the chunk before.
    """

    inputs: Tensor
    targets: Tensor
    first: bool


Batch = TaggedBatch | PairBatch | ChunkBatch


class TrainingData(Protocol):
    """Batches by position, the same whenever asked, so that a run can go on in the middle of an epoch."""

    def num_batches(self, epoch: int) -> int:
        """How many batches an epoch has, at least 1."""

    def batch(self, epoch: int, index: int) -> Batch:
        """One batch of an epoch, index from 0."""
