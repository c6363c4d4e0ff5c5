"""Spelling a sentence at once gives what the tokenizer gives word by word."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from models.symbols import BOS, EOS, PAD, UNK
from models.tokenizer import Tokenizer
from models.vocabulary import Vocabulary
from service.spelling import Speller, normalised

LETTERS = "abcXYZ .é\u00c5\u1e9bß\u0301\u0130Σσς中\U0001f600"
KNOWN = Vocabulary((PAD, UNK, BOS, EOS, *LETTERS, "ab"), 4)
letters = st.one_of(st.sampled_from([*LETTERS, "e", "A", "\u030a"]), st.characters())
words = st.lists(st.text(alphabet=letters), min_size=1)


@given(words, st.booleans())
@example(["e\u0301", "A\u030a", "\u0130", "ΑΣ", "Σ"], True)
@example(["\U0010ffff", "\ud800", "~", chr(0x1F602 + ord("a"))], False)
@example(["AB", "XYZ"], True)
def test_characters_are_those_of_the_tokenizer(sentence: list[str], lowercase: bool) -> None:
    tokenizer = Tokenizer("characters", KNOWN, lowercase=lowercase)
    spelled, lengths = Speller(tokenizer).spell(sentence)
    expected = [tokenizer.encode(word) for word in sentence]
    assert lengths.tolist() == [len(ids) for ids in expected]
    assert spelled.tolist() == [i for ids in expected for i in ids]
    assert spelled.dtype == lengths.dtype == np.int64


@given(words, st.booleans())
def test_words_are_normalised_as_their_tokenizer_does(sentence: list[str], lowercase: bool) -> None:
    tokenizer = Tokenizer("none", KNOWN, lowercase=lowercase)
    assert list(normalised(tokenizer, sentence)) == [tokenizer.normalise(word) for word in sentence]


def test_other_tokenizers_are_asked_themselves() -> None:
    back_to_front = Tokenizer("characters", KNOWN, reverse=True)
    pieces = Tokenizer("whitespace", KNOWN)
    closed = Tokenizer("characters", Vocabulary(("a", "b"), 0))
    for tokenizer, sentence in ((back_to_front, ["abc", "é"]), (pieces, ["a b ab", "Z"]), (closed, ["ab", "a"])):
        spelled, lengths = Speller(tokenizer).spell(sentence)
        expected = [tokenizer.encode(word) for word in sentence]
        assert spelled.tolist() == [i for ids in expected for i in ids]
        assert lengths.tolist() == [len(ids) for ids in expected]


def test_a_special_symbol_of_one_character_is_not_text() -> None:
    tokenizer = Tokenizer("characters", Vocabulary((PAD, UNK, "^", "a"), 3))
    assert Speller(tokenizer).spell(["a^"])[0].tolist() == tokenizer.encode("a^") == [3, 1]


def test_a_vocabulary_of_no_single_characters_knows_none() -> None:
    tokenizer = Tokenizer("characters", Vocabulary((PAD, UNK), 2))
    assert Speller(tokenizer).spell(["ab", "\U0001f600"])[0].tolist() == [1, 1, 1]
