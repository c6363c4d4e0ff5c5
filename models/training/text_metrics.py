"""Metrics of decoded texts."""

from collections.abc import Sequence

import sacrebleu
from rapidfuzz.distance import Levenshtein


def error_rates(answers: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Rate pronunciations: of several right ones, the nearest counts.

    Args:
        answers: Space-separated phonemes.
        references: For each answer, what is right.

    Returns:
        Word error rate: the fraction of answers that are not right; and phoneme error rate: edits (insertions,
        deletions, substitutions) over phonemes of the reference. Fractions, not per cent; per can exceed 1.
    """
    wrong = edits = phonemes = 0
    for answer, right in zip(answers, references, strict=True):
        got = answer.split()
        distance, length = min((Levenshtein.distance(got, r.split()), len(r.split())) for r in right)
        wrong += distance > 0
        edits += distance
        phonemes += length
    return wrong / len(answers), edits / phonemes


def accuracy(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The fraction of answers that equal one of the right ones."""
    return sum(answer in right for answer, right in zip(answers, references, strict=True)) / len(answers)


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU, 0 to 100, with sacrebleu's defaults (13a tokens, mixed case, exponential smoothing).

    Source: Papineni et al. 2002; Post 2018, https://github.com/mjpost/sacrebleu

    Args:
        answers: Sentences, detokenised.
        references: For each, its translations.
    """
    most = max(len(right) for right in references)
    # sacrebleu wants the references transposed; a sentence with fewer has None.
    columns = [[right[i] if i < len(right) else None for right in references] for i in range(most)]
    return float(sacrebleu.corpus_bleu(list(answers), columns).score)  # type: ignore[arg-type]
