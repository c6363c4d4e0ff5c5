"""Tagging without a model: every word gets the tag that it most often had."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from models.data.examples import TaggedSentence


class MostFrequentTag:
    """The most frequent tag of each word; of unknown words, that of the words seen once, which they are most like.

    Ties go to the tag that sorts first.

    Args:
        sentences: The train split, not empty.
    """

    def __init__(self, sentences: Iterable[TaggedSentence]) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for sentence in sentences:
            for word, tag in zip(sentence.words, sentence.tags, strict=True):
                counts[word][tag] += 1
        rare = Counter(tag for tags in counts.values() if tags.total() == 1 for tag in tags)
        overall = sum(counts.values(), Counter[str]())
        self._tags = {word: _most_frequent(tags) for word, tags in counts.items()}
        self._unknown = _most_frequent(rare or overall)

    def predict(self, words: Sequence[str]) -> list[str]:
        """One tag a word."""
        return [self._tags.get(word, self._unknown) for word in words]


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda tag: (-counts[tag], tag))
