"""Text becomes ids and ids text, the same way everywhere."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Subword
from tokenizers import decoders, models, pre_tokenizers, trainers

from models.symbols import BOS, EOS, PAD, UNK
from models.tokenizer import Tokenizer
from models.vocabulary import Vocabulary

LETTERS = Vocabulary.build(Counter("abcdefghijklmnopqrstuvwxyz é"))
WORDS = Vocabulary.build(Counter(["the", "cat", "sat"]))


def subword() -> Tokenizer:
    model = Subword(models.BPE(unk_token=UNK))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=[PAD, UNK, BOS, EOS], show_progress=False)
    model.train_from_iterator(["the cat sat on the mat", "the cats sat"], trainer)
    by_id = sorted(model.get_vocab().items(), key=lambda item: item[1])
    return Tokenizer("subword", Vocabulary(tuple(token for token, _ in by_id), 4), model)


def test_characters_are_composed_before_they_are_looked_up() -> None:
    tokenizer = Tokenizer("characters", LETTERS)
    assert tokenizer.encode("e\u0301") == [LETTERS.id_of("é")]


@given(st.text(alphabet="abcxyz é", max_size=20))
def test_characters_round_trip(text: str) -> None:
    tokenizer = Tokenizer("characters", LETTERS)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_whitespace_pieces_are_joined_by_one_space() -> None:
    tokenizer = Tokenizer("whitespace", WORDS)
    assert tokenizer.decode(tokenizer.encode("  the\tcat \n sat ")) == "the cat sat"


def test_lower_casing_happens_before_look_up() -> None:
    assert Tokenizer("whitespace", WORDS, lowercase=True).encode("THE Cat") == WORDS.encode(["the", "cat"])


def test_reverse_turns_the_ids_around_and_leaves_the_tokens() -> None:
    tokenizer = Tokenizer("characters", LETTERS, reverse=True)
    assert tokenizer.tokenize("abc") == ["a", "b", "c"]
    assert tokenizer.encode("abc") == LETTERS.encode("cba")


def test_decoding_leaves_out_special_symbols_but_shows_unknown() -> None:
    tokenizer = Tokenizer("whitespace", WORDS)
    assert tokenizer.decode([2, WORDS.id_of("cat"), 1, 3, 0]) == f"cat {UNK}"


@pytest.mark.parametrize("text", ["<pad>", "<s>", "</s>"])
def test_text_that_spells_a_symbol_never_becomes_it(text: str) -> None:
    for tokenizer in (Tokenizer("characters", LETTERS), Tokenizer("whitespace", WORDS), subword()):
        assert not set(tokenizer.encode(text)) & {0, 2, 3}


def test_subwords_round_trip_and_survive_saving(tmp_path: Path) -> None:
    tokenizer = subword()
    assert tokenizer.subword is not None
    tokenizer.vocabulary.save(tmp_path / "v.json")
    tokenizer.subword.save(str(tmp_path / "t.json"))
    loaded = Tokenizer.load(tmp_path, "subword", "v.json", "t.json", lowercase=False, reverse=False)
    assert loaded.encode("the cat sat") == tokenizer.encode("the cat sat")
    assert loaded.decode(loaded.encode("the cat sat")) == "the cat sat"


def test_kind_and_subword_model_must_agree() -> None:
    with pytest.raises(ValueError, match="subword"):
        Tokenizer("subword", WORDS)
    with pytest.raises(ValueError, match="characters"):
        Tokenizer("characters", WORDS, subword().subword)
