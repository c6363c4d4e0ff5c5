"""Words to the ids of their characters, a sentence at a time.

A tagger is given every character of every word. One lookup in a table by code point takes a fortieth of asking the
vocabulary for each.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.tokenizer import Tokenizer

Ints = npt.NDArray[np.int64]


class Speller:
    """Spells words as a tokenizer of characters does, which is asked where it does anything but look characters up.

    Args:
        tokenizer: Of the characters.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.vocabulary
        self._table: Ints | None = None  # (code points + 1,), the last entry for all above
        if tokenizer.kind == "characters" and not tokenizer.reverse and vocabulary.unk_id is not None:
            codes = [ord(token) if len(token) == 1 else -1 for token in vocabulary.tokens]
            self._table = np.full(max(codes, default=-1) + 2, vocabulary.unk_id, dtype=np.int64)
            for code in codes:
                if code >= 0:
                    self._table[code] = vocabulary.id_of(chr(code))

    def spell(self, words: Sequence[str]) -> tuple[Ints, Ints]:
        """Give the ids of all characters of T words, one word after the other, and of how many each has, (T,)."""
        table, tokenizer = self._table, self._tokenizer
        if table is None:
            spelled = [tokenizer.encode(word) for word in words]
            return np.array([i for ids in spelled for i in ids], np.int64), np.array([*map(len, spelled)], np.int64)
        words = normalised(tokenizer, words)
        codes = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32)
        return table.take(codes, mode="clip"), np.array([*map(len, words)], np.int64)


def normalised(tokenizer: Tokenizer, words: Sequence[str]) -> Sequence[str]:
    """Each word as its tokenizer normalises it."""
    if not tokenizer.lowercase and "".join(words).isascii():  # normal already
        return words
    return [tokenizer.normalise(word) for word in words]
