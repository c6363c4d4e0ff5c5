"""Splits of data that comes in one piece."""

import random
from collections.abc import Sequence
from itertools import pairwise

from models.data.errors import DataError
from models.data.examples import Pair


def split_by_word(pairs: Sequence[Pair], dev: int, test: int, seed: int) -> dict[str, list[Pair]]:
    """Split a lexicon so that no word is in two parts.

    The outcome depends on the set of words and the seed alone, not on the order of the entries.

    Args:
        pairs: Entries, one a word.
        dev: Words of the dev part.
        test: Words of the test part.
        seed: Of the shuffle.

    Raises:
        DataError: A word occurs twice, or nothing would be left to train on.
    """
    words = sorted(pair.source for pair in pairs)
    if len(set(words)) != len(words):
        twice = next(a for a, b in pairwise(words) if a == b)
        raise DataError("cannot split by word", expected="each word once", got=f"{twice!r} more than once")
    if dev + test >= len(words):
        raise DataError(
            "nothing left to train on", expected=f"dev + test below {len(words)} words", got=str(dev + test)
        )
    random.Random(seed).shuffle(words)
    part = dict.fromkeys(words[:dev], "dev") | dict.fromkeys(words[dev : dev + test], "test")
    splits: dict[str, list[Pair]] = {"train": [], "dev": [], "test": []}
    for pair in sorted(pairs, key=lambda p: p.source):
        splits[part.get(pair.source, "train")].append(pair)
    return splits


def split_text(text: str, dev: float, test: float) -> dict[str, str]:
    """Cut a running text into a beginning to train on, then dev, then test.

    Args:
        text: The whole text.
        dev: Fraction of the characters for dev.
        test: Fraction for test.

    Raises:
        DataError: A part would be empty.
    """
    second, third = round(len(text) * (1 - dev - test)), round(len(text) * (1 - test))
    parts = {"train": text[:second], "dev": text[second:third], "test": text[third:]}
    if empty := [name for name, part in parts.items() if not part and (name != "test" or test > 0)]:
        raise DataError("text too short to split", expected="text in every part", got=f"none in {', '.join(empty)}")
    return parts
