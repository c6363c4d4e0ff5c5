"""A vocabulary: which tokens a model knows, and their ids. No torch: the service imports this too."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.symbols import SPECIALS, UNK

# The vocabularies of each family, what it reads first, what it answers in last.
VOCABULARY_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "tagger": ("words", "characters", "tags"),
    "encoder_decoder": ("source", "target"),
    "language_model": ("tokens",),
    "tensors": (),
}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order. The first `num_special` are symbols that text can never produce (`<unk>` apart).

    Args:
        tokens: All tokens; the index is the id. No duplicates.
        num_special: How many of the first tokens are special symbols; 0 for a closed set such as tags.

    Raises:
        ValueError: On duplicates.
    """

    tokens: tuple[str, ...]
    num_special: int
    _ids: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {token: i for i, token in enumerate(self.tokens)}
        if len(ids) != len(self.tokens):
            twice = sorted({token for token in self.tokens if self.tokens.count(token) > 1})
            raise ValueError(f"vocabulary: expected distinct tokens, got these more than once: {twice[:5]}")
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def build(
        cls,
        counts: Mapping[str, int],
        specials: Sequence[str] = SPECIALS,
        min_count: int = 1,
        max_size: int | None = None,
    ) -> "Vocabulary":
        """Make a vocabulary of the most frequent tokens, ties in code-point order.

        Args:
            counts: Occurrences by token; a special symbol in the data is not counted twice.
            specials: Symbols that come first, in id order.
            min_count: Rarer tokens are left out (and read as `<unk>`).
            max_size: Most entries in all, specials included; None is no limit.
        """
        ranked = sorted(
            (t for t, n in counts.items() if n >= min_count and t not in specials), key=lambda t: (-counts[t], t)
        )
        if max_size is not None:
            ranked = ranked[: max(0, max_size - len(specials))]
        return cls((*specials, *ranked), len(specials))

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def special(self, symbol: str) -> int | None:
        """The id of a special symbol, or None where this vocabulary has none such."""
        i = self._ids.get(symbol)
        return i if i is not None and i < self.num_special else None

    @property
    def unk_id(self) -> int | None:
        """What unknown tokens become; None for a closed set."""
        return self.special(UNK)

    def id_of(self, token: str) -> int:
        """The id of one token of text: text never yields a special symbol other than `<unk>`.

        Raises:
            KeyError: The token is unknown and the vocabulary is closed.
        """
        i = self._ids.get(token)
        if i is not None and (i >= self.num_special or i == self.unk_id):
            return i
        if self.unk_id is None:
            raise KeyError(token)
        return self.unk_id

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of the tokens of a text; see `id_of`."""
        return [self.id_of(token) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Tokens of the ids, special symbols as they are written."""
        return [self.tokens[i] for i in ids]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        content = {"num_special": self.num_special, "tokens": self.tokens}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            ValueError: The file is not such a vocabulary.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) != {"num_special", "tokens"}:
            raise ValueError(f"{path.name}: expected an object with num_special and tokens")
        return cls(tuple(map(str, content["tokens"])), int(content["num_special"]))
