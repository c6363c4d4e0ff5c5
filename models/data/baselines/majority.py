"""Classification without a model: every text gets the most frequent label."""

from collections import Counter
from collections.abc import Iterable

from models.data.examples import Pair


class MajorityLabel:
    """The most frequent label; ties go to the one that sorts first.

    Args:
        pairs: The train split, not empty.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        counts = Counter(pair.targets[0] for pair in pairs)
        self._label = min(counts, key=lambda label: (-counts[label], label))

    def predict(self, source: str) -> str:
        """The label, whatever the text."""
        return self._label
