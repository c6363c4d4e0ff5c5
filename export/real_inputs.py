"""The real inputs of a checkpoint's `samples.jsonl`, as ids and batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from export.backend import Array, Ints
from export.checks import FIRST, INITIAL, SCRATCH
from models.tokenizer import Tokenizer
from models.training.errors import RunError

BATCH_ROWS: Final = 16
Sample = Mapping[str, object]


@dataclass(frozen=True)
class Batch:
    """Inputs of a few samples, longest first, padded with zeros.

    Args:
        samples: Which samples, by index.
        lengths: (B,) of each.
        feeds: (B, T) ids, or (B, T, C) and (B, T) for characters, by graph input name.
    """

    samples: list[int]
    lengths: Ints
    feeds: dict[str, Array]


def tagger_batches(samples: Sequence[Sample], tokenizers: Mapping[str, Tokenizer]) -> Iterator[Batch]:
    """Batches of sentences, as the sequence graph takes them."""
    words, characters = tokenizers["words"], tokenizers["characters"]
    sentences = [list(map(str, _list(sample, "words"))) for sample in samples]
    for chosen in _by_length([len(sentence) for sentence in sentences], "words"):
        spelt = [[characters.encode(word) or [0] for word in sentences[index]] for index in chosen]
        ids = [[words.vocabulary.id_of(words.normalise(word)) for word in sentences[index]] for index in chosen]
        longest, width = len(ids[0]), max(len(word) for sentence in spelt for word in sentence)
        feeds = {
            "words": pad(ids),
            "characters": np.zeros((len(chosen), longest, width), np.int64),
            "word_lengths": np.ones((len(chosen), longest), np.int64),
        }
        for row, sentence in enumerate(spelt):
            for step, word in enumerate(sentence):
                feeds["characters"][row, step, : len(word)] = word
                feeds["word_lengths"][row, step] = len(word)
        yield Batch(chosen, np.array([len(sentence) for sentence in ids]), feeds)


def text_batches(
    samples: Sequence[Sample], key: str, tokenizer: Tokenizer, first: Sequence[int] = (), most: int | None = None
) -> Iterator[Batch]:
    """Batches of encoded texts under the feed name `ids`.

    Args:
        samples: With the text under `key`.
        key: Which.
        tokenizer: Of the texts.
        first: Ids that come before each text.
        most: The checks look at so many ids of a text, `first` included; None is all.
    """
    ids = [[*first, *tokenizer.encode(_text(sample, key))][:most] for sample in samples]
    for chosen in _by_length([len(row) for row in ids], key):
        rows = [ids[index] for index in chosen]
        yield Batch(chosen, np.array([len(row) for row in rows]), {"ids": pad(rows)})


def pad(rows: Sequence[Sequence[int]]) -> Ints:
    """(B, T) int64, zeros past the ends."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = ids
    return padded


def memory_rows(lengths: Ints) -> tuple[Ints, Ints]:
    """Rows (B, S) of the memory pool for sources of these lengths: to write (padding: scratch) and to read (zero)."""
    longest = int(lengths.max())
    rows = FIRST + np.arange(len(lengths) * longest).reshape(-1, longest)
    real = np.arange(longest) < lengths[:, None]
    return np.where(real, rows, SCRATCH), np.where(real, rows, INITIAL)


def gold(sample: Sample, tokenizer: Tokenizer) -> list[list[int]]:
    """The right answers of an encoder-decoder sample as ids, at least one."""
    targets = _list(sample, "targets")
    if not targets:
        raise RunError("samples.jsonl: targets: expected at least one right answer, got none")
    return [tokenizer.encode(str(target)) for target in targets]


def gold_tags(sample: Sample, tokenizer: Tokenizer) -> list[int]:
    """The right tags of a tagger sample, one a word; -1 for a tag that the vocabulary does not have."""
    words, tags = _list(sample, "words"), list(map(str, _list(sample, "tags")))
    if len(tags) != len(words):
        raise RunError(f"samples.jsonl: tags: expected {len(words)}, one a word, got {len(tags)}")
    return [tokenizer.vocabulary.id_of(tag) if tag in tokenizer.vocabulary else -1 for tag in tags]


def _by_length(lengths: Sequence[int], key: str) -> Iterator[list[int]]:
    """Indices in batches of like lengths, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    if order and lengths[order[-1]] == 0:
        raise RunError(f"samples.jsonl: {key} of sample {order[-1] + 1}: expected an input, got an empty one")
    yield from (order[start : start + BATCH_ROWS] for start in range(0, len(order), BATCH_ROWS))


def _text(sample: Sample, key: str) -> str:
    text = sample.get(key)
    if not isinstance(text, str):
        raise RunError(f"samples.jsonl: {key}: expected a text, got {text!r:.80}")
    return text


def _list(sample: Sample, key: str) -> list[object]:
    found = sample.get(key)
    if not isinstance(found, list):
        raise RunError(f"samples.jsonl: {key}: expected a list, got {found!r:.80}")
    return found
