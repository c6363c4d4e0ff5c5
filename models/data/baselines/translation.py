"""Translation without a model: word by word from a dictionary of co-occurrences."""

import re
from collections import Counter
from collections.abc import Iterable

from models.data.examples import Pair

_PIECE = re.compile(r"\w+|[^\w\s]")
_SPACE_BEFORE = re.compile(r"\s+(?=[^\w\s])")


class WordByWord:
    """Replaces each word by the one that goes with it best in the train split; unknown words are copied.

    "Best" is the Dice coefficient of the sentences that they occur in (Smadja et al. 1996, section 4); ties go to the
    word that sorts first.

    Args:
        pairs: The train split.
        max_pairs: Counting is quadratic in the sentence length: no more than so many pairs are read, the first.
    """

    def __init__(self, pairs: Iterable[Pair], max_pairs: int = 50_000) -> None:
        both: Counter[tuple[str, str]] = Counter()
        left: Counter[str] = Counter()
        right: Counter[str] = Counter()
        for _, pair in zip(range(max_pairs), pairs, strict=False):
            sources, targets = set(_pieces(pair.source)), set(_pieces(pair.targets[0]))
            left.update(sources)
            right.update(targets)
            both.update((s, t) for s in sources for t in targets)
        best: dict[str, tuple[float, str]] = {}
        for (source, target), count in both.items():
            candidate = (-2 * count / (left[source] + right[target]), target)
            if source not in best or candidate < best[source]:
                best[source] = candidate
        self._dictionary = {source: target for source, (_, target) in best.items()}

    def predict(self, source: str) -> str:
        """Translate a sentence, order kept."""
        text = " ".join(self._dictionary.get(piece, piece) for piece in _pieces(source))
        return _SPACE_BEFORE.sub("", text)


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(text)
