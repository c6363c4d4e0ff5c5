"""Pairs of texts as tensors, for the encoder-decoder."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from models.data.batching import BucketedBatches, Ints
from models.data.errors import DataError
from models.data.examples import Pair
from models.data.ragged import Ragged
from models.symbols import BOS_ID, EOS_ID, PAD_ID
from models.tokenizer import Tokenizer
from models.training.batches import PairBatch


class EncodedPairs:
    """Pairs as token ids; a source with several right targets is several examples to train on.

    Args:
        pairs: The examples.
        tokenizers: With the roles source and target.

    Raises:
        DataError: A source or a target has no tokens.
    """

    def __init__(self, pairs: Sequence[Pair], tokenizers: Mapping[str, Tokenizer]) -> None:
        source, target = tokenizers["source"], tokenizers["target"]
        sources: list[list[int]] = []
        targets: list[list[int]] = []
        owners: list[int] = []
        primary: list[int] = []
        for i, pair in enumerate(pairs):
            ids = source.encode(pair.source)
            if not ids:
                raise DataError(f"source {i + 1} has no tokens", expected="at least one", got=repr(pair.source))
            sources.append(ids)
            primary.append(len(targets))
            for text in pair.targets:
                targets.append([BOS_ID, *target.encode(text), EOS_ID])
                owners.append(i)
        self.sources, self.targets = Ragged.of(sources), Ragged.of(targets)
        self.owners = np.array(owners, np.int64)
        """(targets,): which source each target belongs to."""
        self.primary = np.array(primary, np.int64)
        """(sources,): the first target of each source."""

    def collate(self, targets: Ints) -> PairBatch:
        """Make a batch of some targets and their sources."""
        sources = self.owners[targets]
        both = self.targets.padded(targets, PAD_ID)  # (B, 1 + T)
        target_in = both[:, :-1].copy()
        # The last symbol of a row is </s>, which is never read.
        last = self.targets.lengths[targets] - 1
        inside = last < both.shape[1] - 1
        target_in[np.flatnonzero(inside), last[inside]] = PAD_ID
        return PairBatch(
            torch.from_numpy(self.sources.padded(sources)),
            torch.from_numpy(self.sources.lengths[sources]),
            torch.from_numpy(target_in),
            torch.from_numpy(both[:, 1:].copy()),
            torch.from_numpy(sources),
        )


class PairTraining:
    """Training batches of pairs, bucketed by length."""

    def __init__(self, encoded: EncodedPairs, max_tokens: int, max_rows: int, seed: int) -> None:
        lengths = encoded.sources.lengths[encoded.owners] + encoded.targets.lengths
        self._encoded = encoded
        self._batches = BucketedBatches(lengths, max_tokens, max_rows, seed)
        self._epoch: tuple[int, list[Ints]] | None = None

    def num_batches(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return len(self._of(epoch))

    def batch(self, epoch: int, index: int) -> PairBatch:
        """One batch of an epoch."""
        return self._encoded.collate(self._of(epoch)[index])

    def _of(self, epoch: int) -> list[Ints]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._batches.epoch(epoch)
        return self._epoch[1]


def pair_evaluation(encoded: EncodedPairs, max_rows: int) -> list[PairBatch]:
    """Every source once with its usual target, like lengths together."""
    lengths = encoded.sources.lengths + encoded.targets.lengths[encoded.primary]
    batches = BucketedBatches(lengths, max_tokens=int(lengths.max()) * max_rows, max_rows=max_rows, seed=0)
    return [encoded.collate(encoded.primary[batch]) for batch in batches.in_order()]
