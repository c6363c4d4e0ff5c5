"""Pronunciation without a model: every letter is read as it most often is."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from models.data.examples import Pair

_MOST = 2
"""Phonemes that one letter may stand for (x: k s)."""
_ROUNDS = 4
_SMOOTHING = 0.1
Reading = tuple[str, ...]


class LetterFrequency:
    """Reads each letter as its most frequent phonemes (none, one or two), whatever its neighbours.

    Letters and phonemes are aligned monotonically by Viterbi training on a sample of the lexicon (Black, Lenzo and
    Pagel 1998, section 3.2, with hard instead of soft counts), beginning with every split of the phonemes that is
    closest to even.

    Args:
        pairs: The train split.
        sample_size: Words to align.
        seed: Of the sample.
    """

    def __init__(self, pairs: Sequence[Pair], sample_size: int = 8000, seed: int = 0) -> None:
        words = [pair for pair in pairs if len(pair.targets[0].split()) <= _MOST * len(pair.source)]
        chosen = words if len(words) <= sample_size else random.Random(seed).sample(words, sample_size)
        lexicon = [(pair.source, tuple(pair.targets[0].split())) for pair in chosen]
        counts = _count(_even(word, phonemes) for word, phonemes in lexicon)
        for _ in range(_ROUNDS):
            costs = _costs(counts)
            counts = _count(align(word, phonemes, costs) for word, phonemes in lexicon)
        self._readings = {letter: min(c, key=lambda r: (-c[r], r)) for letter, c in counts.items()}

    def predict(self, source: str) -> str:
        """Space-separated phonemes; a letter never seen is silent."""
        return " ".join(phoneme for letter in source for phoneme in self._readings.get(letter, ()))


Costs = tuple[dict[tuple[str, Reading], float], float]


def align(word: str, phonemes: Reading, costs: Costs) -> list[tuple[str, Reading]]:
    """Find the cheapest way to give each letter, in order, its share of the phonemes.

    Args:
        word: n letters.
        phonemes: At most 2n.
        costs: Negative log-probability of a reading of a letter, and of one never seen.

    Returns:
        Each letter with its reading.
    """
    known, unseen = costs
    # best[j]: cost of reading the letters so far as the first j phonemes, and how many the last letter took.
    best = [0.0] + [math.inf] * len(phonemes)
    taken: list[list[int]] = []
    for letter in word:
        row, choice = [math.inf] * (len(phonemes) + 1), [0] * (len(phonemes) + 1)
        for j in range(len(phonemes) + 1):
            for n in range(min(_MOST, j) + 1):
                cost = best[j - n]
                if cost < math.inf:
                    cost += known.get((letter, phonemes[j - n : j]), unseen)
                    if cost < row[j]:
                        row[j], choice[j] = cost, n
        best = row
        taken.append(choice)
    found, j = [], len(phonemes)
    for letter, choice in zip(reversed(word), reversed(taken), strict=True):
        n = choice[j]
        found.append((letter, phonemes[j - n : j]))
        j -= n
    return found[::-1]


def _even(word: str, phonemes: Reading) -> list[tuple[str, Reading]]:
    cuts = [round(i * len(phonemes) / len(word)) for i in range(len(word) + 1)]
    return [(letter, phonemes[cuts[i] : cuts[i + 1]]) for i, letter in enumerate(word)]


def _count(alignments: Iterable[list[tuple[str, Reading]]]) -> dict[str, Counter[Reading]]:
    counts: defaultdict[str, Counter[Reading]] = defaultdict(Counter)
    for alignment in alignments:
        for letter, reading in alignment:
            counts[letter][reading] += 1
    return dict(counts)


def _costs(counts: dict[str, Counter[Reading]]) -> Costs:
    known: dict[tuple[str, Reading], float] = {}
    for letter, readings in counts.items():
        total = readings.total() + _SMOOTHING
        known |= {(letter, reading): -math.log(count / total) for reading, count in readings.items()}
    return known, -math.log(_SMOOTHING / max(1, sum(c.total() for c in counts.values())))
