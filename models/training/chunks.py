"""Running text as tensors, for the language model."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.data.tracks import Chunk, Tracks
from models.symbols import BOS_ID, EOS_ID, PAD_ID
from models.tokenizer import Tokenizer
from models.training.batches import ChunkBatch


def encode_stream(texts: Sequence[str], tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """Put texts one after another as token ids, (n,), `</s>` after each."""
    return np.fromiter((i for text in texts for i in (*tokenizer.encode(text), EOS_ID)), np.int32)


def lay_out(stream: npt.NDArray[np.int32], tracks: int, chunk: int) -> Tracks:
    """Cut a stream into parallel tracks; see `Tracks.of`."""
    return Tracks.of(stream, tracks, chunk, PAD_ID, BOS_ID, EOS_ID)


class ChunkTraining:
    """Training chunks, in order: the text is never shuffled, since the state is carried over.

    Args:
        tracks: The text of all processes.
        rank: This process, which takes its share of the tracks.
        world_size: How many processes there are.
    """

    def __init__(self, tracks: Tracks, rank: int = 0, world_size: int = 1) -> None:
        part = slice(rank, None, world_size)
        self._tracks = Tracks(tracks.inputs[part], tracks.targets[part], tracks.chunk)

    def num_batches(self, epoch: int) -> int:
        """How many chunks the text has."""
        return len(self._tracks)

    def batch(self, epoch: int, index: int) -> ChunkBatch:
        """One chunk of every track."""
        return to_batch(self._tracks[index])


def to_batch(chunk: Chunk) -> ChunkBatch:
    """Copy a chunk to tensors."""
    return ChunkBatch(
        torch.from_numpy(np.ascontiguousarray(chunk.inputs)),
        torch.from_numpy(np.ascontiguousarray(chunk.targets)),
        chunk.first,
    )


def chunk_evaluation(tracks: Tracks) -> list[ChunkBatch]:
    """All chunks of a text, in order."""
    return [to_batch(tracks[i]) for i in range(len(tracks))]
