"""What fewer bits cost on real inputs, and how much they may: agreement with the fp32 model and the task's metric.

The fp32 side is the PyTorch model itself. The graphs of an int8 bundle are not held to its numbers, only to its
decisions and to its quality; those of an fp16 bundle to all three.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rapidfuzz.distance import Levenshtein

from export.backend import Backend
from export.greedy import Decoded, Greedy, initial_states
from export.manifest import Manifest, Variant
from export.real_inputs import Sample, gold, gold_tags, text_batches
from export.report import Quality
from models.symbols import BOS_ID, EOS_ID
from models.tokenizer import Tokenizer

# Perplexity looks at so many tokens of a text.
SCORED_TOKENS: Final = 64


@dataclass(frozen=True)
class QualityLimits:
    """What a bundle in fp16 or int8 may lose; past any of them the export fails.

    Args:
        disagreement: Share of greedy decisions, on the same history, that differ from fp32's.
        accuracy: Of tags, absolute.
        error_rate: Tokens of greedy answers that are wrong, as a share of the right answers' tokens, absolute.
        perplexity: Relative.
    """

    disagreement: float = 0.02
    accuracy: float = 0.01
    error_rate: float = 0.01
    perplexity: float = 0.02


DEFAULT_LIMITS: Final = QualityLimits()


def measure_quality(
    graphs: Backend, reference: Backend, greedy: Greedy, limits: QualityLimits = DEFAULT_LIMITS
) -> tuple[Quality, ...]:
    """Compare graphs of fewer bits with the fp32 model on the samples.

    Args:
        graphs: Those of fewer bits.
        reference: The fp32 model.
        greedy: Decodes the samples.
        limits: What may be lost.
    """
    decoded = greedy.decode(reference, graphs)
    rows = [_agreement(decoded, limits)]
    if greedy.manifest.task == "language_model":
        rows.append(_perplexity(graphs, reference, greedy, limits.perplexity))
    else:
        answers, fp32_answers = greedy.decode(graphs).answers, decoded.answers
        measure = _accuracy if greedy.manifest.task == "tagger" else _error_rate
        rows.append(measure(answers, fp32_answers, greedy, limits))
    return tuple(rows)


def measure_variant(
    graphs: Backend, reference: Backend, greedy: Greedy, variant: Variant, limits: QualityLimits
) -> Quality:
    """Compare the decisions of a variant of a step with the fp32 model's; as `measure_quality`."""
    row = _agreement(greedy.decode(reference, graphs), limits)
    return row.model_copy(update={"measure": f"{row.measure} ({variant})"})


def _agreement(decoded: Decoded, limits: QualityLimits) -> Quality:
    """Share of decisions, on the same history, that are the fp32 model's."""
    agreement = 1 - decoded.differing / decoded.count if decoded.count else 0.0
    return Quality(
        measure="decisions equal to fp32's, share",
        fp32=None,
        quantized=agreement,
        loss=1 - agreement,
        limit=limits.disagreement,
        count=decoded.count,
    )


def _accuracy(
    answers: Mapping[int, list[int]], fp32_answers: Mapping[int, list[int]], greedy: Greedy, limits: QualityLimits
) -> Quality:
    """Share of right tags."""
    truth = [gold_tags(sample, greedy.tokenizers["tags"]) for sample in greedy.samples]
    count = sum(map(len, truth))

    def share(found: Mapping[int, list[int]]) -> float:
        right = [tag == true for i, tags in enumerate(truth) for tag, true in zip(found[i], tags, strict=True)]
        return sum(right) / max(1, count)

    fp32, quantized = share(fp32_answers), share(answers)
    return Quality(
        measure="token accuracy",
        fp32=fp32,
        quantized=quantized,
        loss=fp32 - quantized,
        limit=limits.accuracy,
        count=count,
    )


def _error_rate(
    answers: Mapping[int, list[int]], fp32_answers: Mapping[int, list[int]], greedy: Greedy, limits: QualityLimits
) -> Quality:
    """Edit distance of greedy answers to the nearest right one, as a share of the tokens of the shortest right one."""
    truth = [gold(sample, greedy.tokenizers["target"]) for sample in greedy.samples]
    count = sum(max(1, min(map(len, targets))) for targets in truth)

    def rate(found: Mapping[int, list[int]]) -> float:
        errors = [min(Levenshtein.distance(found[i], target) for target in targets) for i, targets in enumerate(truth)]
        return sum(errors) / max(1, count)

    fp32, quantized = rate(fp32_answers), rate(answers)
    return Quality(
        measure="token error rate",
        fp32=fp32,
        quantized=quantized,
        loss=quantized - fp32,
        limit=limits.error_rate,
        count=count,
    )


def _perplexity(graphs: Backend, reference: Backend, greedy: Greedy, limit: float) -> Quality:
    (fp32, count), (quantized, _) = (
        _score(backend, greedy.manifest, greedy.samples, greedy.tokenizers["tokens"]) for backend in (reference, graphs)
    )
    return Quality(
        measure="perplexity (loss relative)",
        fp32=fp32,
        quantized=quantized,
        loss=quantized / fp32 - 1,
        limit=limit,
        count=count,
    )


def _score(backend: Backend, manifest: Manifest, samples: Sequence[Sample], tokenizer: Tokenizer) -> tuple[float, int]:
    """Perplexity of the samples, exp(mean nats a token), and how many tokens that is over."""
    nats, count = 0.0, 0
    for batch in text_batches(samples, "text", tokenizer, [BOS_ID], SCORED_TOKENS):
        tokens, last = batch.feeds["ids"], batch.lengths - 1
        targets = np.concatenate([tokens[:, 1:], np.zeros((len(tokens), 1), np.int64)], axis=1)
        # What was cut off at SCORED_TOKENS does not end there.
        real = np.arange(tokens.shape[1]) < (last + (batch.lengths < SCORED_TOKENS))[:, None]
        targets[np.arange(len(tokens)), last] = EOS_ID
        feeds = {"tokens": tokens, "targets": targets, "lengths": batch.lengths}
        scores = backend.run("sequence", {**feeds, **initial_states(manifest, len(tokens))})["target_log_probs"]
        nats -= float(scores[real].sum(dtype=np.float64))
        count += int(real.sum())
    return float(np.exp(nats / max(count, 1))), count
