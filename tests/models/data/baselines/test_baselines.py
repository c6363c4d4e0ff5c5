"""The baselines against counting by hand."""

import math
import random
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from models.data.baselines.letters import LetterFrequency, align
from models.data.baselines.majority import MajorityLabel
from models.data.baselines.ngram import NGram
from models.data.baselines.tags import MostFrequentTag
from models.data.baselines.translation import WordByWord
from models.data.examples import Pair, TaggedSentence

PAD, BOS, EOS, SIZE = 0, 2, 3, 9


def test_words_get_their_most_frequent_tag_and_unknown_ones_that_of_rare_words() -> None:
    baseline = MostFrequentTag(
        [
            TaggedSentence(("run", "run", "the", "the", "cat"), ("VERB", "NOUN", "DET", "DET", "NOUN")),
            TaggedSentence(("run", "dog", "the"), ("VERB", "NOUN", "DET")),
        ]
    )
    assert baseline.predict(["the", "run", "zebra"]) == ["DET", "VERB", "NOUN"]


def test_a_tie_goes_to_the_tag_that_sorts_first() -> None:
    assert MostFrequentTag([TaggedSentence(("a", "a"), ("Y", "X"))]).predict(["a", "b"]) == ["X", "X"]


def test_every_text_gets_the_majority_label() -> None:
    baseline = MajorityLabel([Pair("a", ("ham",)), Pair("b", ("spam",)), Pair("c", ("ham",))])
    assert baseline.predict("spam spam") == "ham"


def test_words_are_translated_by_what_they_occur_with() -> None:
    baseline = WordByWord(
        [
            Pair("ein Hund.", ("a dog.",)),
            Pair("ein Haus.", ("a house.",)),
            Pair("der Hund.", ("the dog.",)),
        ]
    )
    assert baseline.predict("der Hund, ein Zebra.") == "the dog, a Zebra."


def test_letters_get_their_most_frequent_reading() -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abotxe", k=rng.randint(2, 7))) + "t" for _ in range(300)]
    pairs = [Pair(word, (" ".join("k s" if c == "x" else c for c in word if c != "e"),)) for word in words]
    baseline = LetterFrequency(pairs)
    assert baseline.predict("boxe") == "b o k s"
    assert baseline.predict("b?") == "b"


@pytest.mark.parametrize(("word", "phonemes"), [("ab", ("p", "q", "r")), ("abc", ("p",)), ("ab", ("p", "q", "r", "s"))])
def test_alignment_is_the_cheapest_of_all(word: str, phonemes: tuple[str, ...]) -> None:
    known = {("a", ("p", "q")): 0.5, ("b", ("q", "r")): 0.4, ("a", ("p",)): 0.3, ("b", ()): 0.2, ("c", ("p",)): 0.1}
    unseen = 1.0

    def cost(alignment: list[tuple[str, tuple[str, ...]]]) -> float:
        return sum(known.get(part, unseen) for part in alignment)

    def every(letters: str, rest: tuple[str, ...]) -> list[list[tuple[str, tuple[str, ...]]]]:
        if not letters:
            return [[]] if not rest else []
        return [
            [(letters[0], rest[:n]), *more] for n in range(3) if n <= len(rest) for more in every(letters[1:], rest[n:])
        ]

    found = align(word, phonemes, (known, unseen))
    assert [letter for letter, _ in found] == list(word)
    assert tuple(p for _, reading in found for p in reading) == phonemes
    assert cost(found) == pytest.approx(min(map(cost, every(word, phonemes))))


def stream(seed: int, length: int = 80) -> npt.NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, SIZE - 1, length).astype(np.int32)  # SIZE - 1 is never seen
    tokens[rng.random(length) < 0.2] = EOS
    tokens[-1] = EOS
    return tokens


def texts(tokens: npt.NDArray[np.int32]) -> list[list[int]]:
    out: list[list[int]] = [[]]
    for token in tokens.tolist():
        out[-1].append(token)
        if token == EOS:
            out.append([])
    return out[:-1]


def kneser_ney(tokens: npt.NDArray[np.int32], order: int, context: tuple[int, ...], word: int) -> float:
    """Chen and Goodman's formula, straight from counts of tuples."""
    grams: Counter[tuple[int, ...]] = Counter()
    for text in texts(tokens):
        padded = [BOS] * (order - 1) + text
        for i in range(order - 1, len(padded)):
            grams[tuple(padded[i - order + 1 : i + 1])] += 1
    counts = {order: dict(grams)}
    for k in range(order - 1, 0, -1):
        # Whole longer n-grams, those whose last token is predicted, counted once each.
        longer: set[tuple[int, ...]] = set()
        for text in texts(tokens):
            padded = [BOS] * (order - 1) + text
            longer |= {tuple(padded[i - k : i + 1]) for i in range(order - 1, len(padded))}
        counts[k] = dict(Counter(gram[1:] for gram in longer))

    def probability(k: int) -> float:
        if k == 0:
            return 1 / (SIZE - 2)
        once = sum(c == 1 for c in counts[k].values())
        twice = sum(c == 2 for c in counts[k].values())
        discount = once / (once + 2 * twice) if once else 0.5
        before = context[len(context) - k + 1 :] if k > 1 else ()
        after = {gram[-1]: c for gram, c in counts[k].items() if gram[:-1] == before}
        if not after:
            return probability(k - 1)
        total = sum(after.values())
        held = discount * len(after) / total
        return max(after.get(word, 0) - discount, 0) / total + held * probability(k - 1)

    return probability(order)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ngram_probabilities_follow_the_formula_and_sum_to_one(order: int) -> None:
    train = stream(1)
    model = NGram(train, order, SIZE, BOS, EOS)
    for context in ([], [4], [4, 5], [6, 6, 6], [SIZE - 1], [5, SIZE - 1, 4]):
        found = model.probabilities(context)
        padded = tuple(([BOS] * order + context)[-(order - 1) :]) if order > 1 else ()
        for word in (1, EOS, 4, 5, SIZE - 1):
            assert found[word] == pytest.approx(kneser_ney(train, order, padded, word))
        assert found.sum() - found[PAD] - found[BOS] == pytest.approx(1)


@pytest.mark.parametrize("order", [1, 3])
def test_ngram_scores_a_stream_as_its_texts_one_by_one(order: int) -> None:
    model, scored = NGram(stream(1), order, SIZE, BOS, EOS), stream(2, 30)
    nats = 0.0
    for text in texts(scored):
        for i, token in enumerate(text):
            nats -= math.log(model.probabilities(text[:i])[token])
    assert model.negative_log_likelihood(scored) == pytest.approx(nats / len(scored))
