"""One example of each kind of data, as read: text, before any vocabulary."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence of n words with n tags, n at least 1."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A source text and every target that counts as right, at least one, the usual one first."""

    source: str
    targets: tuple[str, ...]


Example = TaggedSentence | Pair | str
"""A language model's example is a text: a line, or a whole file."""
