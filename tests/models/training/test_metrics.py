"""Metrics and losses against counting, enumeration and PyTorch."""

import math
from collections.abc import Callable

import pytest
import sacrebleu
import torch
from torch.nn import functional

from models.training.chunked_loss import chunked_cross_entropy
from models.training.families import pair_loss
from models.training.language_scorer import language_metrics
from models.training.scorer import is_better
from models.training.tagger_scorer import SpanCounts, spans
from models.training.text_metrics import accuracy, bleu, error_rates


def test_error_rates_take_the_nearest_reference() -> None:
    answers = ["A B C", "A", "", "X B"]
    references = [["A B C"], ["X Y", "A B"], ["A B"], ["A B C"]]
    # Right; one phoneme of two is missing; both are; one is wrong and one missing, of three.
    assert error_rates(answers, references) == (3 / 4, (0 + 1 + 2 + 2) / (3 + 2 + 2 + 3))


def test_per_counts_whole_phonemes() -> None:
    assert error_rates(["AA B"], [["A B"]]) == (1.0, 0.5)


def test_accuracy_takes_any_reference() -> None:
    assert accuracy(["a", "b"], [["x", "a"], ["c"]]) == 0.5


def test_bleu_is_sacrebleu_with_several_references() -> None:
    answers = ["the cat sat on the mat today", "a dog runs in the park now"]
    references = [["the cat sat on a mat", "the cat is on the mat today"], ["a dog runs in a park now"]]
    columns = [["the cat sat on a mat", "a dog runs in a park now"], ["the cat is on the mat today", None]]
    assert bleu(answers, references) == sacrebleu.corpus_bleu(answers, columns).score  # type: ignore[arg-type]
    assert bleu(answers, [[answers[0]], [answers[1]]]) == pytest.approx(100)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-a I-a O B-b", {(0, 2, "a"), (3, 4, "b")}),
        ("B-a B-a", {(0, 1, "a"), (1, 2, "a")}),
        ("I-a I-b", {(0, 1, "a"), (1, 2, "b")}),
        ("O I-a I-a", {(1, 3, "a")}),
        ("B-a I-b I-b", {(0, 1, "a"), (1, 3, "b")}),
        ("O O", set()),
    ],
)
def test_spans_of_bio_tags(tags: str, expected: set[tuple[int, int, str]]) -> None:
    assert spans(tags.split()) == expected


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    counts = SpanCounts()
    counts.add(["B-a", "I-a", "O", "B-b"], ["B-a", "I-a", "O", "B-a"])
    counts.add(["O", "O"], ["B-a", "O"])
    precision, recall = 1 / 2, 1 / 3
    assert counts.f1() == pytest.approx(2 * precision * recall / (precision + recall))
    assert SpanCounts().f1() == 0


def test_perplexity_and_bits_are_the_same_number() -> None:
    metrics = language_metrics(1.5, characters=True)
    assert metrics["perplexity"] == pytest.approx(math.exp(1.5))
    assert metrics["perplexity"] == pytest.approx(2 ** metrics["bits_per_character"])
    assert "bits_per_character" not in language_metrics(1.5, characters=False)


def test_better_depends_on_the_metric_and_nan_never_is() -> None:
    assert is_better("accuracy", 0.2, None)
    assert is_better("accuracy", 0.2, 0.1)
    assert not is_better("wer", 0.2, 0.1)
    assert not is_better("wer", 0.1, 0.1)
    assert not is_better("wer", math.nan, None)


@pytest.mark.parametrize("slice_numbers", [1, 40, 10_000])
def test_the_chunked_loss_is_cross_entropy(slice_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.training.chunked_loss._SLICE_NUMBERS", slice_numbers)
    generator = torch.Generator().manual_seed(3)

    def run(loss: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        generator.manual_seed(3)
        leaves = [torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((13, 5), (17, 5), (17,))]
        targets = torch.randint(0, 17, (13,), generator=generator)
        value = loss(leaves[0] * 1.0, leaves[1], leaves[2], targets)
        (value * 3).backward()  # type: ignore[no-untyped-call]
        return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    def plain(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional.linear(hidden, weight, bias), targets, reduction="sum")

    for got, expected in zip(run(chunked_cross_entropy), run(plain), strict=True):
        torch.testing.assert_close(got, expected)


def test_label_smoothing_mixes_in_the_tokens_that_can_come_next() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 7, generator=generator)
    targets = torch.tensor([[4, 5, 3], [6, 3, 0]])
    log_probs = torch.log_softmax(logits, -1)
    expected = []
    for row, step in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        goal = torch.tensor([0, 0.1, 0, 0.1, 0.1, 0.1, 0.1]) / 5
        goal[targets[row, step]] += 0.9
        expected.append(-(goal * log_probs[row, step]).sum())
    torch.testing.assert_close(pair_loss(logits, targets, 0.1), torch.stack(expected).mean())
    plain = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
    torch.testing.assert_close(pair_loss(logits, targets, 0.0), plain)
