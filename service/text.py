"""Text to the engine's arrays, with every bound checked.

What is too long is refused, never cut. A text of more than CHARACTERS_PER_TOKEN times the token limit is refused before
it is tokenised, so that the cost of a refusal is bounded too.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.symbols import BOS, EOS
from models.tokenizer import Tokenizer
from service.errors import InvalidInput
from service.models import LiveModel
from service.spelling import normalised

CHARACTERS_PER_TOKEN = 64
SHOWN_CHARACTERS = 40  # of a caller's text in a message

Arrays = dict[str, npt.NDArray[np.int64]]


def shown(text: str) -> str:
    """Quote a caller's text, cut where long."""
    return repr(text) if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]!r}... ({len(text)} characters)"


def encode(tokenizer: Tokenizer, text: str, field: str, max_tokens: int) -> list[int]:
    """Give the ids of a text, in the order in which the model reads them.

    Raises:
        InvalidInput: It has no token, or more than `max_tokens`.
    """
    if len(text) > max_tokens * CHARACTERS_PER_TOKEN:
        raise InvalidInput(field, f"at most {max_tokens * CHARACTERS_PER_TOKEN} characters", f"{len(text)} characters")
    ids = tokenizer.encode(text)
    if not ids:
        raise InvalidInput(field, "a text of at least one token", shown(text))
    if len(ids) > max_tokens:
        raise InvalidInput(field, f"at most {max_tokens} tokens", f"{len(ids)} tokens")
    return ids


def num_unknown(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """How many tokens of a text the vocabulary does not have, given the ids that stand for it."""
    unknown = tokenizer.vocabulary.unk_id
    return 0 if unknown is None else list(ids).count(unknown)


def tagger_arrays(model: LiveModel, words: Sequence[str], field: str) -> Arrays:
    """Give the inputs of a tagger for the words of a sentence, T of them.

    Returns:
        words (T,), characters (T, C) padded with 0, word_lengths (T,).

    Raises:
        InvalidInput: No word or too many; an empty or over-long word; too many characters in all.
    """
    limits = model.limits
    if not words:
        raise InvalidInput(field, "at least one word", "none")
    if len(words) > limits.max_input_tokens:
        raise InvalidInput(field, f"at most {limits.max_input_tokens} words", f"{len(words)} words")
    if max(map(len, words)) > limits.max_word_characters or not all(map(str.strip, words)):
        raise _bad_word(words, field, limits.max_word_characters)
    tokenizer = model.tokenizers["words"]
    spelled, lengths = model.speller.spell(words)
    longest = int(lengths.max())
    # A model computes every word as long as the longest: that, not the sum, is what a sentence costs.
    if len(words) * longest > limits.max_sentence_characters:
        raise InvalidInput(
            field,
            f"words times characters of the longest word to be at most {limits.max_sentence_characters}",
            f"{len(words)} words, the longest of {longest}",
        )
    characters = np.zeros((len(words), longest), np.int64)
    characters[np.arange(longest) < lengths[:, None]] = spelled
    word_ids = tokenizer.vocabulary.encode(normalised(tokenizer, words))
    return {"words": np.array(word_ids, np.int64), "characters": characters, "word_lengths": lengths}


def _bad_word(words: Sequence[str], field: str, most: int) -> InvalidInput:
    """Say which is the first word that is none or too long; there must be one."""
    for i, word in enumerate(words):
        if not word.strip():
            return InvalidInput(f"{field}[{i}]", "a word", shown(word))
        if len(word) > most:
            break
    return InvalidInput(f"{field}[{i}]", f"at most {most} characters", shown(word))


def begin_id(tokenizer: Tokenizer) -> int:
    """The begin symbol, which every text of a language model starts from."""
    begin = tokenizer.vocabulary.special(BOS)
    assert begin is not None, "a language model's vocabulary has a begin symbol"
    return begin


def scored_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """What a language model reads and what it is to predict: `<s> y1 .. yn` and `y1 .. yn </s>`.

    Without an end symbol in the vocabulary both are one shorter.
    """
    end = tokenizer.vocabulary.special(EOS)
    read = [begin_id(tokenizer), *ids]
    return (read[:-1], list(ids)) if end is None else (read, [*ids, end])


def step_ids(tokenizer: Tokenizer, tokens: Sequence[str], field: str) -> list[int]:
    """Ids of the vocabulary entries that a session is to be fed; an entry may be a special symbol such as `<s>`.

    Raises:
        InvalidInput: One is empty, or more than one character where entries are characters.
    """
    vocabulary, ids = tokenizer.vocabulary, []
    for i, token in enumerate(tokens):
        special = vocabulary.special(token)
        if special is None:
            if not token:
                raise InvalidInput(f"{field}[{i}]", "one vocabulary entry", shown(token))
            token = tokenizer.normalise(token) if tokenizer.kind != "subword" else token
            if tokenizer.kind == "characters" and len(token) != 1:
                raise InvalidInput(f"{field}[{i}]", "one character", shown(token))
            special = vocabulary.id_of(token)
        ids.append(special)
    return ids
