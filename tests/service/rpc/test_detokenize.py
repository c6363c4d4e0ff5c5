"""The pieces joined are the text of the whole: the oracle is decoding all ids at once."""

import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from models.symbols import BOS, EOS, PAD, UNK
from models.tokenizer import Tokenizer
from models.vocabulary import Vocabulary
from service.rpc.detokenize import Detokenizer

SPECIALS = (PAD, UNK, BOS, EOS)
CHARACTERS = Tokenizer("characters", Vocabulary((*SPECIALS, *"abc é"), 4))
WORDS = Tokenizer("whitespace", Vocabulary((*SPECIALS, "ab", "c", "é"), 4))


def byte_level() -> Tokenizer:
    """Byte-level BPE as training makes it, so small that most characters outside ASCII take several tokens."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(symbol, special=True) for symbol in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(["the cat sat on the mat", "über naïve 日本"] * 4, trainer)
    ids = model.get_vocab()
    return Tokenizer("subword", Vocabulary(tuple(sorted(ids, key=ids.__getitem__)), 4), model)


SUBWORDS = byte_level()


def pieces(tokenizer: Tokenizer, ids: list[int], cut: int) -> list[str]:
    """Decode in two batches."""
    detokenizer = Detokenizer(tokenizer)
    tokens = [*detokenizer.add(ids[:cut], [0.0] * cut), *detokenizer.add(ids[cut:], [0.0] * len(ids[cut:]))]
    tokens += detokenizer.finish()
    assert [token.token for token in tokens] == tokenizer.vocabulary.decode(ids)
    assert detokenizer.num_tokens == len(ids)
    assert detokenizer.text == tokenizer.decode(ids)
    return [token.text for token in tokens]


@given(st.lists(st.integers(0, 8), max_size=12), st.integers(0, 12))
def test_characters_join_to_the_text(ids: list[int], cut: int) -> None:
    assert "".join(pieces(CHARACTERS, ids, min(cut, len(ids)))) == CHARACTERS.decode(ids)


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(0, 12))
def test_words_join_to_the_text(ids: list[int], cut: int) -> None:
    assert "".join(pieces(WORDS, ids, min(cut, len(ids)))) == WORDS.decode(ids)


@given(st.lists(st.integers(0, len(SUBWORDS.vocabulary) - 1), max_size=24), st.integers(0, 24))
@settings(max_examples=400)
def test_any_subwords_join_to_the_text_even_broken_characters(ids: list[int], cut: int) -> None:
    assert "".join(pieces(SUBWORDS, ids, min(cut, len(ids)))) == SUBWORDS.decode(ids)


@given(st.text(max_size=20))
def test_a_text_in_subwords_comes_back_as_it_was(text: str) -> None:
    ids = SUBWORDS.encode(text)
    assert "".join(pieces(SUBWORDS, ids, len(ids) // 2)) == SUBWORDS.decode(ids)


def test_no_piece_ends_inside_a_character() -> None:
    ids = SUBWORDS.encode("a 語 b")
    assert len(ids) > 5  # the character takes several tokens
    texts = pieces(SUBWORDS, ids, 0)
    assert "".join(texts) == "a 語 b"
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)


def test_a_token_is_given_as_soon_as_its_text_is_certain() -> None:
    detokenizer = Detokenizer(WORDS)
    assert [token.text for token in detokenizer.add([4], [-0.5])] == ["ab"]
    (second,) = detokenizer.add([5], [-0.25])
    assert (second.token, second.text, second.log_prob) == ("c", " c", -0.25)
    assert detokenizer.finish() == []


@given(st.lists(st.integers(0, 6), max_size=6), st.lists(st.integers(0, 6), max_size=6))
def test_what_separates_words_from_the_text_before_them_is_theirs(before: list[int], ids: list[int]) -> None:
    detokenizer = Detokenizer(WORDS, after=before)
    tokens = [*detokenizer.add(ids, [0.0] * len(ids)), *detokenizer.finish()]
    assert "".join(token.text for token in tokens) == detokenizer.text
    assert WORDS.decode(before) + detokenizer.text == WORDS.decode([*before, *ids])


@given(st.sampled_from(["the cat", "über", "日本", ""]), st.sampled_from(["sat", " naïve", "on the mat", "本"]))
def test_subwords_go_on_from_the_text_before_them(before: str, text: str) -> None:
    prompt, ids = SUBWORDS.encode(before), SUBWORDS.encode(text)
    detokenizer = Detokenizer(SUBWORDS, after=prompt)
    tokens = [*detokenizer.add(ids, [0.0] * len(ids)), *detokenizer.finish()]
    assert "".join(token.text for token in tokens) == detokenizer.text
    assert SUBWORDS.decode(prompt) + detokenizer.text == SUBWORDS.decode([*prompt, *ids])
