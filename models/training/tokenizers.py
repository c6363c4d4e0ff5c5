"""The tokenizers of a run: vocabularies are made from its train split."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from models.data.errors import DataError
from models.data.subword import train_subwords
from models.tokenizer import Tokenizer
from models.training.config import RunConfig, TokenizerConfig
from models.training.corpus import Corpus
from models.vocabulary import VOCABULARY_ROLES, Vocabulary

FOLDER = "vocabulary"


def build_tokenizers(config: RunConfig, corpus: Corpus) -> dict[str, Tokenizer]:
    """Make the tokenizer of every role of the model's family from the train split.

    Raises:
        DataError: A subword vocabulary is too small.
    """
    if config.model.family == "tagger":
        sentences = corpus.sentences("train")
        words = [word for sentence in sentences for word in sentence.words]
        # The tag set is part of the task, not something learned: a tag that only dev has is still a tag.
        tags = Counter(tag for split in corpus.splits for sentence in corpus.sentences(split) for tag in sentence.tags)
        return {
            "words": _build_ready(config.tokenizer("words"), words),
            "characters": _build(config.tokenizer("characters"), words),
            "tags": Tokenizer("none", Vocabulary.build(tags, specials=())),
        }
    if config.model.family == "encoder_decoder":
        pairs = corpus.pairs("train")
        return {
            "source": _build(config.tokenizer("source"), (pair.source for pair in pairs)),
            "target": _build(config.tokenizer("target"), chain.from_iterable(pair.targets for pair in pairs)),
        }
    return {"tokens": _build(config.tokenizer("tokens"), corpus.texts("train"))}


def _build_ready(config: TokenizerConfig, tokens: Iterable[str]) -> Tokenizer:
    """Make a tokenizer of tokens that come ready: it normalises and looks up."""
    bare = Tokenizer("none", Vocabulary((), 0), lowercase=config.lowercase)
    counts = Counter(bare.normalise(token) for token in tokens)
    vocabulary = Vocabulary.build(counts, min_count=config.min_count, max_size=config.max_size)
    return Tokenizer("none", vocabulary, lowercase=config.lowercase)


def _build(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    if config.kind == "subword":
        assert config.max_size is not None
        bare = Tokenizer("whitespace", Vocabulary((), 0), lowercase=config.lowercase)
        subword, vocabulary = train_subwords((bare.normalise(text) for text in texts), config.max_size)
        return Tokenizer("subword", vocabulary, subword, config.lowercase, config.reverse)
    bare = Tokenizer(config.kind, Vocabulary((), 0), lowercase=config.lowercase)
    counts = Counter(chain.from_iterable(bare.tokenize(text) for text in texts))
    vocabulary = Vocabulary.build(counts, min_count=config.min_count, max_size=config.max_size)
    return Tokenizer(config.kind, vocabulary, None, config.lowercase, config.reverse)


def save_tokenizers(tokenizers: dict[str, Tokenizer], run: Path) -> None:
    """Write `vocabulary/<role>.json` and, for subwords, `<role>.tokenizer.json`."""
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for role, tokenizer in tokenizers.items():
        tokenizer.vocabulary.save(folder / f"{role}.json")
        if tokenizer.subword is not None:
            tokenizer.subword.save(str(folder / f"{role}.tokenizer.json"))


def load_tokenizers(config: RunConfig, run: Path) -> dict[str, Tokenizer]:
    """Read what `save_tokenizers` wrote.

    Raises:
        DataError: A file is missing or is no vocabulary.
    """
    tokenizers = {}
    for role in VOCABULARY_ROLES[config.model.family]:
        spec = TokenizerConfig(kind="none") if role == "tags" else config.tokenizer(role)
        file = f"{role}.tokenizer.json" if spec.kind == "subword" else None
        try:
            tokenizers[role] = Tokenizer.load(
                run / FOLDER, spec.kind, f"{role}.json", file, spec.lowercase, spec.reverse
            )
        except (OSError, ValueError) as error:
            raise DataError(f"the vocabulary of {role} cannot be read: {error}", path=run / FOLDER) from None
    return tokenizers
