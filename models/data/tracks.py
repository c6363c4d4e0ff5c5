"""A running text as parallel tracks, cut into chunks for truncated backpropagation through time.

Source: Zaremba et al. 2014, section 4; the layout is that of the usual word language models: the stream is cut into as
many contiguous pieces as the batch has rows, and the state of a row at the end of a chunk is its state at the start
of the next one.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """Some steps of every track.

    Args:
        inputs: Tokens that are read, (tracks, T), int64.
        targets: Tokens that come next, (tracks, T), int64; `<pad>` where a track has ended.
        first: Whether the tracks begin here, from the initial state.
    """

    inputs: Ints
    targets: Ints
    first: bool


@dataclass(frozen=True)
class Tracks:
    """Parallel pieces of a stream of tokens. Every token is a target exactly once.

    What is read before a token is the token before it, except that `<s>` is read at the start of a text (that is,
    in place of `</s>`) and at the start of a track.

    Args:
        inputs: (tracks, steps), int64.
        targets: (tracks, steps), int64, padded at the end.
        chunk: Most steps of a chunk.
    """

    inputs: Ints
    targets: Ints
    chunk: int

    @classmethod
    def of(cls, stream: npt.NDArray[np.int32], tracks: int, chunk: int, pad: int, bos: int, eos: int) -> "Tracks":
        """Lay out a stream.

        Args:
            stream: Tokens, (n,), each text ended by `eos`.
            tracks: How many tracks; fewer if the stream has fewer tokens.
            chunk: Most steps of a chunk.
            pad: Id of `<pad>`.
            bos: Id of `<s>`.
            eos: Id of `</s>`.
        """
        rows = max(1, min(tracks, len(stream)))
        steps = -(-len(stream) // rows)
        flat = np.full(rows * steps, pad, np.int64)
        flat[: len(stream)] = stream
        targets = flat.reshape(rows, steps)
        inputs = np.full_like(targets, bos)
        inputs[:, 1:] = np.where(targets[:, :-1] == eos, bos, targets[:, :-1])
        return cls(inputs, targets, chunk)

    def __len__(self) -> int:
        return int(-(-self.targets.shape[1] // self.chunk))

    def __getitem__(self, i: int) -> Chunk:
        part = slice(i * self.chunk, (i + 1) * self.chunk)
        return Chunk(self.inputs[:, part], self.targets[:, part], i == 0)
