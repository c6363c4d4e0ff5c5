"""Subword vocabularies: whole, reversible, repeatable."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.errors import DataError
from models.data.subword import train_subwords
from models.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "A man's dog, 3 cats."] * 5


def tokenizer() -> Tokenizer:
    model, vocabulary = train_subwords(TEXTS, 270)
    return Tokenizer("subword", vocabulary, model)


def test_ids_of_model_and_vocabulary_agree_and_frequent_words_are_one_token() -> None:
    made = tokenizer()
    assert made.subword is not None
    assert len(made.vocabulary) == 270
    assert all(made.subword.token_to_id(token) == i for i, token in enumerate(made.vocabulary.tokens))
    assert len(made.encode("the cat")) < len("the cat")


def test_training_twice_gives_the_same() -> None:
    assert train_subwords(TEXTS, 270)[1] == train_subwords(TEXTS, 270)[1]


@settings(max_examples=50)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_comes_back(text: str) -> None:
    made = SHARED
    if "<" not in text and not text.startswith(" "):
        assert made.decode(made.encode(text)) == made.normalise(text)


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(DataError, match="expected at least 260, got 100"):
        train_subwords(TEXTS, 100)


SHARED = tokenizer()
