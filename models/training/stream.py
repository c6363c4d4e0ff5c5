"""The training batches of one round, from wherever the run is."""

from collections.abc import Iterator, Sequence

from models.training.batches import Batch, TrainingData
from models.training.config import LimitsConfig
from models.training.progress import Progress


class RoundStream:
    """Each iteration gives the batches from the present position to the next evaluation.

    Lightning takes it as a dataloader whose epoch is such a round. It may read ahead: the position that counts is the
    one in `progress`, which the trainer moves on after a batch is done.

    Args:
        data: The batches of this process.
        progress: Where the run is.
        limits: When it ends.
        every_steps: Steps between evaluations; None is an epoch.
    """

    def __init__(self, data: TrainingData, progress: Progress, limits: LimitsConfig, every_steps: int | None) -> None:
        self._data, self._progress, self._limits, self._every_steps = data, progress, limits, every_steps

    def __iter__(self) -> Iterator[Batch]:
        position = self._progress.position
        while True:
            yield self._data.batch(position.epoch, position.batch)
            position = position.after(self._data.num_batches(position.epoch))
            # A round has at least one batch: Lightning skips an empty one together with its evaluation.
            if position.ends_round(self._limits, self._every_steps) or self._progress.out_of_time(self._limits):
                return


class Held:
    """Batches that are held in memory, as a dataloader (Lightning takes a list for several dataloaders)."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


class Shard:
    """The part of the batches that one of several processes trains on.

    Process r of n takes the batches r, r + n, ...; where an epoch does not divide, the last processes begin it again,
    so that all take the same number of steps.
    """

    def __init__(self, data: TrainingData, rank: int, world_size: int) -> None:
        self._data, self._rank, self._world_size = data, rank, world_size

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch that this process takes."""
        return -(-self._data.num_batches(epoch) // self._world_size)

    def batch(self, epoch: int, index: int) -> Batch:
        """One of them."""
        return self._data.batch(epoch, (index * self._world_size + self._rank) % self._data.num_batches(epoch))
