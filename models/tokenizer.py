"""Text to token ids and back, the same in training and in the service. No torch."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers

from models.vocabulary import Vocabulary

Kind = Literal["characters", "whitespace", "subword", "none"]


@dataclass(frozen=True)
class Tokenizer:
    """Splits text into tokens of one vocabulary.

    Args:
        kind: characters: one token a Unicode character (NFC); whitespace: one a whitespace-separated piece; subword: a
            Hugging Face tokenizer whose ids are the vocabulary's; none: tokens come ready.
        vocabulary: The tokens and their ids.
        subword: For kind subword only.
        lowercase: Lower-case the text first.
        reverse: Give the ids back to front (Sutskever et al. 2014, section 3.3).
    """

    kind: Kind
    vocabulary: Vocabulary
    subword: tokenizers.Tokenizer | None = None
    lowercase: bool = False
    reverse: bool = False

    def __post_init__(self) -> None:
        if (self.kind == "subword") != (self.subword is not None):
            raise ValueError(
                f"tokenizer: kind {self.kind!r} with{'out' if self.subword is None else ''} a subword model"
            )

    def normalise(self, text: str) -> str:
        """NFC, lower-cased where so configured."""
        text = unicodedata.normalize("NFC", text)
        return text.lower() if self.lowercase else text

    def tokenize(self, text: str) -> list[str]:
        """Tokens of a text in reading order, before unknown ones are replaced."""
        text = self.normalise(text)
        if self.kind == "characters":
            return list(text)
        if self.kind == "subword":
            assert self.subword is not None
            return list(self.subword.encode(text, add_special_tokens=False).tokens)
        return text.split()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, in the order in which the model reads them. No begin or end symbol is added."""
        ids = self.vocabulary.encode(self.tokenize(text))
        return ids[::-1] if self.reverse else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids in reading order; special symbols other than `<unk>` are left out."""
        unk, first = self.vocabulary.unk_id, self.vocabulary.num_special
        kept = [i for i in ids if i >= first or i == unk]
        if self.kind == "subword":
            assert self.subword is not None
            return str(self.subword.decode(kept, skip_special_tokens=False))
        return ("" if self.kind == "characters" else " ").join(self.vocabulary.decode(kept))

    @classmethod
    def load(
        cls, folder: Path, kind: Kind, vocabulary: str, file: str | None, lowercase: bool, reverse: bool
    ) -> "Tokenizer":
        """Read from a bundle or a checkpoint folder; the arguments are the fields of `TokenizerSpec`."""
        subword = tokenizers.Tokenizer.from_file(str(folder / file)) if file is not None else None
        return cls(kind, Vocabulary.load(folder / vocabulary), subword, lowercase, reverse)
