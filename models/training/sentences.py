"""Tagged sentences as tensors, for the tagger."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from models.data.batching import BucketedBatches, Ints
from models.data.errors import DataError
from models.data.examples import TaggedSentence
from models.data.ragged import Ragged
from models.tokenizer import Tokenizer
from models.training.batches import TaggedBatch


class EncodedSentences:
    """Sentences as ids of words, tags and spellings; a spelling is stored once however often its word occurs.

    Args:
        sentences: The examples.
        tokenizers: With the roles words, characters and tags.

    Raises:
        DataError: A tag is unknown.
    """

    def __init__(self, sentences: Sequence[TaggedSentence], tokenizers: Mapping[str, Tokenizer]) -> None:
        words, characters, tags = (tokenizers[role] for role in ("words", "characters", "tags"))
        spellings: dict[str, int] = {}
        word_ids: dict[str, int] = {}
        rows_words, rows_spellings, rows_tags = [], [], []
        for i, sentence in enumerate(sentences):
            for word in sentence.words:
                if word not in word_ids:
                    word_ids[word] = words.vocabulary.id_of(words.normalise(word))
                    spellings[word] = len(spellings)
            rows_words.append([word_ids[word] for word in sentence.words])
            rows_spellings.append([spellings[word] for word in sentence.words])
            try:
                rows_tags.append(tags.vocabulary.encode(sentence.tags))
            except KeyError as error:
                raise DataError(
                    f"sentence {i + 1} has an unknown tag",
                    expected=f"one of {len(tags.vocabulary)} tags",
                    got=repr(error.args[0]),
                ) from None
        self.words, self.tags = Ragged.of(rows_words), Ragged.of(rows_tags)
        self._occurrences = Ragged.of(rows_spellings)
        self._spellings = Ragged.of([characters.encode(word) for word in spellings])

    def collate(self, rows: Ints) -> TaggedBatch:
        """Make a batch of some sentences."""
        lengths = self.words.lengths[rows]
        spellings = self._occurrences.padded(rows)  # (B, T)
        inside = np.arange(spellings.shape[1]) < lengths[:, None]
        word_lengths = np.where(inside, self._spellings.lengths[spellings], 1)
        characters = self._spellings.padded(spellings, width=int(word_lengths.max()))  # (B, T, C)
        characters[~inside] = 0
        return TaggedBatch(
            torch.from_numpy(self.words.padded(rows)),
            torch.from_numpy(characters),
            torch.from_numpy(word_lengths),
            torch.from_numpy(lengths),
            torch.from_numpy(self.tags.padded(rows)),
            torch.from_numpy(rows),
        )


class SentenceTraining:
    """Training batches of sentences, bucketed by length."""

    def __init__(self, encoded: EncodedSentences, max_tokens: int, max_rows: int, seed: int) -> None:
        self._encoded = encoded
        self._batches = BucketedBatches(encoded.words.lengths, max_tokens, max_rows, seed)
        self._epoch: tuple[int, list[Ints]] | None = None

    def num_batches(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return len(self._of(epoch))

    def batch(self, epoch: int, index: int) -> TaggedBatch:
        """One batch of an epoch."""
        return self._encoded.collate(self._of(epoch)[index])

    def _of(self, epoch: int) -> list[Ints]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._batches.epoch(epoch)
        return self._epoch[1]


def sentence_evaluation(encoded: EncodedSentences, max_rows: int) -> list[TaggedBatch]:
    """Every sentence once, like lengths together."""
    lengths = encoded.words.lengths
    batches = BucketedBatches(lengths, max_tokens=int(lengths.max()) * max_rows, max_rows=max_rows, seed=0)
    return [encoded.collate(batch) for batch in batches.in_order()]
