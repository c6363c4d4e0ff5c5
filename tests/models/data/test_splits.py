"""Splits are fixed by their seed and share nothing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.errors import DataError
from models.data.examples import Pair
from models.data.splits import split_by_word, split_text


def lexicon(size: int) -> list[Pair]:
    return [Pair(f"w{i}", ("P",)) for i in range(size)]


def test_parts_of_a_lexicon_share_no_word_and_lose_none() -> None:
    splits = split_by_word(lexicon(50), dev=7, test=5, seed=3)
    words = {name: {pair.source for pair in part} for name, part in splits.items()}
    assert {name: len(part) for name, part in words.items()} == {"train": 38, "dev": 7, "test": 5}
    assert set.union(*words.values()) == {pair.source for pair in lexicon(50)}


def test_a_split_depends_on_the_words_and_the_seed_alone() -> None:
    pairs = lexicon(50)
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert split_by_word(pairs, 7, 5, 3) == split_by_word(shuffled, 7, 5, 3)
    assert split_by_word(pairs, 7, 5, 3) != split_by_word(pairs, 7, 5, 4)


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected dev \+ test below 10 words, got 10"):
        split_by_word(lexicon(10), 5, 5, 0)
    with pytest.raises(DataError, match="expected each word once, got 'w0' more than once"):
        split_by_word([*lexicon(3), Pair("w0", ("Q",))], 1, 1, 0)
    with pytest.raises(DataError, match="text too short to split"):
        split_text("ab", 0.05, 0.05)


@given(st.text(min_size=30), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_a_text_is_cut_without_loss(text: str, dev: float, test: float) -> None:
    parts = split_text(text, dev, test)
    assert parts["train"] + parts["dev"] + parts["test"] == text
    assert all(parts.values())
