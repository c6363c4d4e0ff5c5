"""What a family needs for training and evaluation, brought together from corpus and tokenizers."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from torch import nn

from models.data.examples import Pair
from models.encoder_decoder import EncoderDecoder
from models.language_model import LanguageModel
from models.tagger import Tagger
from models.tokenizer import Tokenizer
from models.training.baseline import (
    CHARACTER_ORDER,
    WORD_ORDER,
    language_baseline,
    pair_baseline,
    tagger_baseline,
)
from models.training.batches import Batch, TrainingData
from models.training.chunks import ChunkTraining, chunk_evaluation, encode_stream, lay_out
from models.training.config import RunConfig
from models.training.corpus import Corpus
from models.training.data_config import CmudictData, ColumnsData, GruutData, LabelledData
from models.training.families import EncoderDecoderModule, LanguageModelModule, TaggerModule
from models.training.language_scorer import LanguageScorer
from models.training.module import TrainingModule
from models.training.pair_scorer import PairMetric, PairScorer
from models.training.pairs import EncodedPairs, PairTraining, pair_evaluation
from models.training.scorer import Scorer
from models.training.sentences import EncodedSentences, SentenceTraining, sentence_evaluation
from models.training.stream import Shard
from models.training.tagger_scorer import TaggerScorer

T = TypeVar("T")
_SAMPLES = 200
_SAMPLE_SEED = 0


@dataclass(frozen=True)
class Task(ABC):
    """One family's view of a run.

    Args:
        config: The run's config.
        corpus: Its data.
        tokenizers: By role.
    """

    config: RunConfig
    corpus: Corpus
    tokenizers: Mapping[str, Tokenizer]

    @property
    @abstractmethod
    def module_type(self) -> type[TrainingModule]:
        """The Lightning module."""

    @abstractmethod
    def training_data(self, rank: int = 0, world_size: int = 1) -> TrainingData:
        """The batches of one process."""

    @abstractmethod
    def evaluation(
        self, model: nn.Module, split: str, max_examples: int | None, final: bool
    ) -> tuple[Scorer, list[Batch]]:
        """A scorer and the batches to score.

        Args:
            model: The model.
            split: Which split.
            max_examples: Only so many, a fixed sample; None is all.
            final: Decode with the configured beam, not greedily.
        """

    @abstractmethod
    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """The metrics of the common-sense baselines on a whole split, by name; the chief one is called `baseline`."""

    @abstractmethod
    def samples(self) -> list[dict[str, object]]:
        """Raw inputs of the dev split, and what is right for them, for the checks of the export."""


class TaggerTask(Task):
    """Sentences with tags."""

    module_type = TaggerModule

    @property
    def bio(self) -> bool:
        """Whether tags are spans."""
        return isinstance(self.config.data, ColumnsData) and self.config.data.bio

    def training_data(self, rank: int = 0, world_size: int = 1) -> TrainingData:
        """The batches of one process."""
        encoded = EncodedSentences(self.corpus.sentences("train"), self.tokenizers)
        batch = self.config.batch
        return Shard(SentenceTraining(encoded, batch.max_tokens, batch.max_rows, self.config.seed), rank, world_size)

    def evaluation(
        self, model: nn.Module, split: str, max_examples: int | None, final: bool
    ) -> tuple[Scorer, list[Batch]]:
        """A scorer and the batches to score."""
        sentences = sample(self.corpus.sentences(split), max_examples)
        encoded = EncodedSentences(sentences, self.tokenizers)
        scorer = TaggerScorer(cast(Tagger, model), self.tokenizers["tags"].vocabulary.tokens, self.bio)
        return scorer, list(sentence_evaluation(encoded, self.config.evaluation.max_rows))

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """The most frequent tag of each word."""
        train, scored = self.corpus.sentences("train"), self.corpus.sentences(split)
        return {"baseline": tagger_baseline(train, scored, self.bio)}

    def samples(self) -> list[dict[str, object]]:
        """Words of dev sentences, and their tags."""
        return [{"words": list(s.words), "tags": list(s.tags)} for s in sample(self.corpus.sentences("dev"), _SAMPLES)]


class EncoderDecoderTask(Task):
    """Pairs of texts."""

    module_type = EncoderDecoderModule

    @property
    def metric(self) -> PairMetric:
        """How answers are compared with what is right."""
        if isinstance(self.config.data, CmudictData | GruutData):
            return "error_rates"
        return "accuracy" if isinstance(self.config.data, LabelledData) else "bleu"

    def training_data(self, rank: int = 0, world_size: int = 1) -> TrainingData:
        """The batches of one process."""
        encoded = EncodedPairs(self.corpus.pairs("train"), self.tokenizers)
        batch = self.config.batch
        return Shard(PairTraining(encoded, batch.max_tokens, batch.max_rows, self.config.seed), rank, world_size)

    def evaluation(
        self, model: nn.Module, split: str, max_examples: int | None, final: bool
    ) -> tuple[Scorer, list[Batch]]:
        """A scorer and the batches to score."""
        pairs = self.pairs(split, max_examples)
        settings = self.config.evaluation
        scorer = PairScorer(
            cast(EncoderDecoder, model),
            self.tokenizers["target"],
            pairs,
            self.metric,
            settings.max_tokens,
            settings.beam_size if final else 1,
            settings.length_penalty,
        )
        return scorer, list(pair_evaluation(EncodedPairs(pairs, self.tokenizers), settings.max_rows))

    def pairs(self, split: str, max_examples: int | None) -> list[Pair]:
        """The examples that are scored."""
        return sample(self.corpus.pairs(split), max_examples)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Letter frequency for lexicons, a dictionary for translation, the majority for labels."""
        return {"baseline": pair_baseline(self.corpus.pairs("train"), self.corpus.pairs(split), self.metric)}

    def samples(self) -> list[dict[str, object]]:
        """Dev sources, and the targets that count as right."""
        return [
            {"source": pair.source, "targets": list(pair.targets)}
            for pair in sample(self.corpus.pairs("dev"), _SAMPLES)
        ]


class LanguageModelTask(Task):
    """Running text."""

    module_type = LanguageModelModule

    @property
    def characters(self) -> bool:
        """Whether tokens are characters."""
        return self.tokenizers["tokens"].kind == "characters"

    def training_data(self, rank: int = 0, world_size: int = 1) -> TrainingData:
        """The chunks of one process."""
        tokenizer, batch = self.tokenizers["tokens"], self.config.batch
        stream = encode_stream(self.corpus.texts("train"), tokenizer)
        return ChunkTraining(lay_out(stream, batch.tracks * world_size, batch.chunk), rank, world_size)

    def evaluation(
        self, model: nn.Module, split: str, max_examples: int | None, final: bool
    ) -> tuple[Scorer, list[Batch]]:
        """A scorer and the batches to score; `max_examples` counts texts, from the first on."""
        tokenizer = self.tokenizers["tokens"]
        stream = encode_stream(self.corpus.texts(split)[:max_examples], tokenizer)
        tracks = lay_out(stream, self.config.evaluation.tracks, self.config.batch.chunk)
        return LanguageScorer(cast(LanguageModel, model), self.characters), list(chunk_evaluation(tracks))

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """An n-gram model, and the unigrams."""
        tokenizer = self.tokenizers["tokens"]
        train, scored = (encode_stream(self.corpus.texts(part), tokenizer) for part in ("train", split))
        orders = {"baseline": CHARACTER_ORDER if self.characters else WORD_ORDER, "unigram": 1}
        return {name: language_baseline(train, scored, tokenizer, order) for name, order in orders.items()}

    def samples(self) -> list[dict[str, object]]:
        """Lines of dev texts that are not blank."""
        lines = [line for text in self.corpus.texts("dev") for line in text.split("\n") if line.strip()]
        return [{"text": line} for line in sample(lines, _SAMPLES)]


def sample(examples: Sequence[T], size: int | None) -> list[T]:
    """A fixed sample, in the order of the data; all where there are no more."""
    if size is None or len(examples) <= size:
        return list(examples)
    rows = sorted(random.Random(_SAMPLE_SEED).sample(range(len(examples)), size))
    return [examples[i] for i in rows]


def make_task(config: RunConfig, corpus: Corpus, tokenizers: Mapping[str, Tokenizer]) -> Task:
    """The task of a config's family."""
    match config.model.family:
        case "tagger":
            return TaggerTask(config, corpus, tokenizers)
        case "encoder_decoder":
            return EncoderDecoderTask(config, corpus, tokenizers)
        case "language_model":
            return LanguageModelTask(config, corpus, tokenizers)
