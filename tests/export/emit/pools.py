"""Slots and memory rows for tests, as the service would hand them out."""

import numpy as np

from export.emit.emitted import EmittedModel
from tests.export.emit.runtime import Array, Pooled


def make_pools(emitted: EmittedModel, num_slots: int, num_rows: int = 0) -> Pooled:
    """Zeroed pools for every state and memory; slots and rows 2 and up are free."""
    states = {str(s.pool_input): np.zeros((num_slots, *s.shape), np.float32) for s in emitted.states}
    memories = {m.pool_input: np.zeros((num_rows, *m.shape), np.float32) for m in emitted.memories}
    return Pooled(states | memories)


def memory_rows(lengths: Array, num_positions: int, rng: np.random.Generator | None = None) -> tuple[Array, Array]:
    """Rows of each source position for writing and for reading, (B, S) each.

    Padding is written to row 1 and read from row 0. Rows are in order, or shuffled by `rng`.
    """
    free = np.arange(2, 2 + int(lengths.sum()))
    if rng is not None:
        rng.shuffle(free)
    written = np.ones((len(lengths), num_positions), np.int64)
    for row, length in enumerate(lengths):
        written[row, :length], free = free[:length], free[length:]
    return written, np.where(written == 1, 0, written)
