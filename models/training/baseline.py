"""The common-sense baseline of each task, scored as the model is."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.data.baselines.letters import LetterFrequency
from models.data.baselines.majority import MajorityLabel
from models.data.baselines.ngram import NGram
from models.data.baselines.tags import MostFrequentTag
from models.data.baselines.translation import WordByWord
from models.data.examples import Pair, TaggedSentence
from models.symbols import BOS_ID, EOS_ID
from models.tokenizer import Tokenizer
from models.training.language_scorer import language_metrics
from models.training.pair_scorer import PairMetric, pair_metrics
from models.training.tagger_scorer import SpanCounts

WORD_ORDER, CHARACTER_ORDER = 3, 6
"""Order of the n-gram baselines: longer ones are no better on a few million words or characters."""


def tagger_baseline(train: Sequence[TaggedSentence], split: Sequence[TaggedSentence], bio: bool) -> dict[str, float]:
    """Most frequent tag of each word: accuracy, and span f1 for BIO tags."""
    baseline, right, words, spans = MostFrequentTag(train), 0, 0, SpanCounts()
    for sentence in split:
        predicted = baseline.predict(sentence.words)
        right += sum(a == b for a, b in zip(predicted, sentence.tags, strict=True))
        words += len(predicted)
        spans.add(predicted, sentence.tags)
    return {"accuracy": right / words} | ({"f1": spans.f1()} if bio else {})


def pair_baseline(train: Sequence[Pair], split: Sequence[Pair], metric: PairMetric) -> dict[str, float]:
    """Letter frequency for lexicons, a dictionary for translation, the majority for labels."""
    kinds = {"error_rates": LetterFrequency, "bleu": WordByWord, "accuracy": MajorityLabel}
    baseline: LetterFrequency | WordByWord | MajorityLabel = kinds[metric](train)
    return pair_metrics(metric, [baseline.predict(pair.source) for pair in split], [pair.targets for pair in split])


def language_baseline(
    train: npt.NDArray[np.int32], split: npt.NDArray[np.int32], tokenizer: Tokenizer, order: int
) -> dict[str, float]:
    """An n-gram model with Kneser-Ney smoothing.

    Args:
        train: Token ids, each text ended by `</s>`.
        split: Likewise, what is scored.
        tokenizer: Whose ids they are.
        order: n.
    """
    model = NGram(train, order, len(tokenizer.vocabulary), BOS_ID, EOS_ID)
    return language_metrics(model.negative_log_likelihood(split), tokenizer.kind == "characters")
