"""What the benchmarks compute from what they measured, and what they draw their inputs from."""

import statistics
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from bench import report, tagging_model, transducer_model
from bench.drive import write_messages
from bench.overload import seconds_until_back
from bench.poisson import rates
from bench.raw_tagging import RawTagger
from bench.report import Plot, Report
from bench.tagging import check
from models.build import build_model
from models.config import TaggerConfig
from models.tagger import Tagger


def bins(*late: float) -> list[dict[str, dict[str, float]]]:
    return [{"latency_ms": {"p90": p90}} for p90 in late]


@pytest.mark.parametrize(
    ("after", "expected"),
    [([1, 1, 1], 0.0), ([9, 1, 1], 0.1), ([9, 9, 1], 0.2), ([1, 9, 1], 0.2), ([9, 1, 9], 0.3), ([5, 5, 5], 0.0)],
)
def test_latency_is_back_after_the_last_bin_that_is_late(after: list[float], expected: float) -> None:
    assert seconds_until_back(bins(1, 1, 50, 50, *after), 0.1, 0.4, normal_ms=5) == pytest.approx(expected)


def test_both_modes_are_given_the_loads_of_both() -> None:
    assert rates({"step": 200.0, "request": 100.0}, [0.5, 0.9]) == [50.0, 90.0, 100.0, 180.0]


def test_sentences_have_the_lengths_that_are_promised() -> None:
    lengths = [len(sentence) for sentence in tagging_model.sentences(5000)]
    assert min(lengths) == 5 and max(lengths) <= 50
    assert statistics.mean(lengths) == pytest.approx(20, abs=0.5)
    assert statistics.median(lengths) < 20 < statistics.quantiles(lengths, n=10)[-1]
    assert tagging_model.sentences(3) == tagging_model.sentences(3) != tagging_model.sentences(3, seed=2)


def test_requests_have_the_lengths_that_are_promised() -> None:
    lengths = [request.max_tokens for request in transducer_model.requests(5000)]
    assert min(lengths) == 4 and max(lengths) <= transducer_model.LONGEST
    assert statistics.mean(lengths) == pytest.approx(16, abs=0.5)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawTagger:
    for name, value in (("WORDS", 40), ("DIM", 6), ("HIDDEN", 7)):
        monkeypatch.setattr(tagging_model, name, value)
    return RawTagger.open(tagging_model.publish(tmp_path))


def test_the_raw_tagger_answers_as_torch_does(raw: RawTagger) -> None:
    torch.manual_seed(0)
    config = TaggerConfig(word_dim=6, character_dim=1, character_hidden=1, hidden=7, layers=2, dropout=0.0)
    model = build_model(config, {"words": 40, "characters": 15, "tags": 17}).eval()
    assert isinstance(model, Tagger)
    sentences = tagging_model.sentences(6)
    batch = raw.inputs(sentences)
    tensors = [torch.from_numpy(batch[name]) for name in ("words", "characters", "word_lengths", "lengths")]
    with torch.inference_mode():
        expected = model(*tensors)[0].numpy()
    got = raw.run(batch)
    for i, sentence in enumerate(sentences):
        np.testing.assert_allclose(got[i, : len(sentence)], expected[i, : len(sentence)], atol=1e-5)
        best = expected[i, : len(sentence)].argmax(axis=1)
        assert raw.answer(sentence) == [f"T{tag}" for tag in best]


def test_the_raw_tagger_counts_sentences_of_whole_rounds(raw: RawTagger) -> None:
    assert raw.sentences_per_s(tagging_model.sentences(40), rows=8, seconds=0.05, runners=2) > 100
    with pytest.raises(ValueError, match="expected at least 8, got 7"):
        raw.sentences_per_s(tagging_model.sentences(7), rows=8, seconds=0.05, runners=1)


def test_a_wrong_tag_is_told_with_its_sentence(tmp_path: Path) -> None:
    import struct

    from protos.carryover.v1 import carryover_pb2 as pb

    answers = [["A", "B"], ["C"]]
    with (tmp_path / "responses").open("wb") as file:
        for i, tags in enumerate(answers):
            message = pb.TagResponse(sequences=[pb.TaggedSequence(tags=tags)]).SerializeToString()
            file.write(struct.pack("<IIIiII", i, 0, i, 0, 1, len(message)) + message)
    assert check(tmp_path / "responses", answers) == 2
    with pytest.raises(SystemExit, match=r"sentence 1: expected \['B'\], got \['C'\]"):
        check(tmp_path / "responses", [["A", "B"], ["B"]])
    write_messages(tmp_path / "none", [])
    with pytest.raises(SystemExit, match="expected answers to check, got none"):
        check(tmp_path / "none", answers)


@pytest.fixture
def printed() -> tuple[Console, Callable[[], str]]:
    text = StringIO()
    return Console(file=text, width=100), text.getvalue


EXAMPLE = Report(
    "example", "An example", [{"a": 1234, "b": 0.126, "c": 12345.6, "d": None, "e": "x"}], ["a note"],
    plots=[Plot("lines", "Lines", "x", "y", {"one": [(1.0, 2.0), (2.0, 3.0)]}, log_x=True, log_y=True)],
)  # fmt: skip


def test_a_report_is_a_table_with_its_notes(printed: tuple[Console, Callable[[], str]]) -> None:
    console, text = printed
    report.show(EXAMPLE, console)
    for expected in ("An example", "1,234", "0.13", "12,346", " - ", " x ", "a note"):
        assert expected in text()


def test_without_matplotlib_the_figures_are_saved_and_the_plots_left_out(
    tmp_path: Path, printed: tuple[Console, Callable[[], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    console, text = printed
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report.save(EXAMPLE, tmp_path / "out", console)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"example.json"}
    assert "matplotlib is not installed" in text()


def test_plots_are_drawn_beside_the_figures(tmp_path: Path, printed: tuple[Console, Callable[[], str]]) -> None:
    pytest.importorskip("matplotlib")
    report.save(EXAMPLE, tmp_path, printed[0])
    assert "</svg>" in (tmp_path / "lines.svg").read_text()
