"""Batches of like lengths, bounded by tokens, in an order that seed and epoch decide."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.data.errors import DataError

Ints = npt.NDArray[np.int64]
_POOL_BATCHES = 50


@dataclass(frozen=True)
class BucketedBatches:
    """Cuts examples into batches.

    Every example is in exactly one batch an epoch. Examples are shuffled, sorted by length within pools of some fifty
    batches (so that like lengths meet without the same ones meeting always), and cut where a batch would hold more
    than `max_tokens` padded tokens or `max_rows` rows; then the batches are shuffled.

    Args:
        lengths: Tokens of each example, (examples,).
        max_tokens: Most rows times longest length of a batch.
        max_rows: Most rows of a batch.
        seed: Of the order.

    Raises:
        DataError: An example alone is over `max_tokens`.
    """

    lengths: Ints
    max_tokens: int
    max_rows: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.lengths) and int(self.lengths.max()) > self.max_tokens:
            longest = int(self.lengths.argmax())
            raise DataError(
                f"example {longest + 1} does not fit into a batch",
                expected=f"at most batch.max_tokens = {self.max_tokens} tokens",
                got=str(int(self.lengths[longest])),
            )

    def epoch(self, epoch: int) -> list[Ints]:
        """The batches of an epoch, each as the indices of its examples; the same whenever asked."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        mean = float(self.lengths.mean()) if len(order) else 1.0
        pool = _POOL_BATCHES * max(1, min(self.max_rows, int(self.max_tokens / max(mean, 1.0))))
        batches: list[Ints] = []
        for start in range(0, len(order), pool):
            members = order[start : start + pool]
            batches += self._cut(members[np.argsort(self.lengths[members], kind="stable")])
        return [batches[i] for i in rng.permutation(len(batches))]

    def in_order(self) -> list[Ints]:
        """Every example once, shortest first: for evaluation."""
        return self._cut(np.argsort(self.lengths, kind="stable").astype(np.int64))

    def _cut(self, by_length: Ints) -> list[Ints]:
        """Cut examples that are sorted by length: the last of a batch is its longest."""
        batches, first = [], 0
        for i, length in enumerate(self.lengths[by_length].tolist()):
            if i > first and ((i + 1 - first) * length > self.max_tokens or i - first >= self.max_rows):
                batches.append(by_length[first:i])
                first = i
        if first < len(by_length):
            batches.append(by_length[first:])
        return batches
