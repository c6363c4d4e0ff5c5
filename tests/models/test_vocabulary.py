"""A vocabulary maps text to ids without ever letting text reach a special symbol."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.symbols import BOS, BOS_ID, EOS, EOS_ID, PAD, PAD_ID, UNK, UNK_ID
from models.vocabulary import Vocabulary

WORDS = Counter({"the": 5, "cat": 3, "sat": 3, "mat": 1})


def test_specials_come_first_then_the_most_frequent_with_ties_in_code_point_order() -> None:
    vocabulary = Vocabulary.build(WORDS)
    assert vocabulary.tokens == (PAD, UNK, BOS, EOS, "the", "cat", "sat", "mat")
    assert vocabulary.num_special == 4


def test_rare_tokens_and_those_past_the_size_limit_read_as_unknown() -> None:
    assert Vocabulary.build(WORDS, min_count=2).encode(["mat", "the"]) == [1, 4]
    assert Vocabulary.build(WORDS, max_size=5).encode(["cat", "the"]) == [1, 4]


@pytest.mark.parametrize("symbol", [PAD, BOS, EOS])
def test_text_that_spells_a_special_symbol_reads_as_unknown(symbol: str) -> None:
    assert Vocabulary.build(WORDS).encode([symbol]) == [1]


def test_a_special_symbol_in_the_counts_is_not_entered_twice() -> None:
    assert Vocabulary.build(Counter({UNK: 9, "a": 1})).tokens == (PAD, UNK, BOS, EOS, "a")


def test_a_closed_set_refuses_what_it_does_not_know() -> None:
    tags = Vocabulary(("NOUN", "VERB"), 0)
    assert tags.encode(["VERB"]) == [1]
    with pytest.raises(KeyError, match="ADJ"):
        tags.encode(["ADJ"])


def test_duplicates_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'a'"):
        Vocabulary(("a", "b", "a"), 0)


@given(st.lists(st.text(max_size=8), unique=True, max_size=30), st.integers(0, 3))
def test_what_was_saved_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[str], special: int
) -> None:
    vocabulary = Vocabulary(tuple(tokens), min(special, len(tokens)))
    path = tmp_path_factory.mktemp("vocabulary") / "words.json"
    vocabulary.save(path)
    assert Vocabulary.load(path) == vocabulary


@pytest.mark.parametrize("content", ["[]", '{"tokens": []}', '{"tokens": [], "num_special": 0, "more": 1}'])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="expected an object with num_special and tokens"):
        Vocabulary.load(path)


def test_special_symbols_have_the_ids_that_graphs_and_searches_rely_on() -> None:
    vocabulary = Vocabulary.build({"a": 1})
    assert [vocabulary.special(symbol) for symbol in (PAD, UNK, BOS, EOS)] == [PAD_ID, UNK_ID, BOS_ID, EOS_ID]
    assert (PAD_ID, UNK_ID, BOS_ID, EOS_ID) == (0, 1, 2, 3)
