import json
import math
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from export.report import Check, ParityError, ParityReport, Quality, Worst


def row(tensor: str, difference: float, limit: float | None = 1e-5, count: int = 10) -> Check:
    return Check(check="random inputs", graph="step", tensor=tensor, difference=difference, limit=limit, count=count)


def cost(loss: float, limit: float = 0.02, count: int = 10) -> Quality:
    return Quality(measure="token accuracy", fp32=0.9, quantized=0.9 - loss, loss=loss, limit=limit, count=count)


def report(*checks: Check, quality: tuple[Quality, ...] = ()) -> ParityReport:
    return ParityReport(precision="int8" if quality else "fp32", seed=1, checks=checks, quality=quality)


def test_a_report_passes_if_every_row_does() -> None:
    assert report(row("hidden_0", 1e-5), row("log_probs", 0), row("free", 3.0, None)).passed
    assert not report(row("hidden_0", 1.1e-5), row("log_probs", 0)).passed
    assert report(row("hidden_0", 0), quality=(cost(0.02), cost(-0.1))).passed
    assert not report(row("hidden_0", 0), quality=(cost(0.021),)).passed


def test_what_was_not_compared_has_not_passed() -> None:
    assert not report().passed
    assert not report(quality=(cost(0),)).passed
    assert not report(row("hidden_0", 0, count=0)).passed
    assert not report(row("hidden_0", 0), quality=(cost(0, count=0),)).passed
    assert "got nothing compared" in report(row("hidden_0", 0, count=0)).verdict()


def test_the_error_names_the_worst_tensor_rather_than_the_tokens_it_spoilt() -> None:
    spoilt = report(row("log_probs", 0.002), row("hidden_0", 0.03), row("cell_0", 0), row("tokens", 170.0, 0))
    assert str(ParityError(spoilt)) == (
        "parity: worst tensor step.hidden_0 in check 'random inputs': expected a difference of at most 1e-05, "
        "got 0.03; 3 of 4 rows failed"
    )
    assert "step.tokens" in report(row("log_probs", 0), row("tokens", 1, 0)).verdict()


def test_the_error_names_the_measure_that_lost_most() -> None:
    lossy = report(row("hidden_0", 0), quality=(cost(0.03), cost(0.09)))
    assert str(ParityError(lossy)) == "quantisation: token accuracy: expected a loss of at most 0.02, got 0.0900"


@pytest.mark.parametrize("difference", [0.5, math.inf])
def test_json_comes_back_as_it_was(tmp_path: Path, difference: float) -> None:
    written = report(row("hidden_0", difference), row("free", 1.0, None), quality=(cost(0.1),))
    written.write(tmp_path)
    text = (tmp_path / "parity.json").read_text()
    assert json.loads(text)["checks"][0]["tensor"] == "hidden_0"
    assert ParityReport.model_validate_json(text) == written


def test_the_table_shows_every_row_and_which_failed() -> None:
    output = StringIO()
    shown = report(row("hidden_0", 0.25), row("free", 1.0, None), quality=(cost(0.01),))
    for table in shown.tables():
        Console(file=output, width=120).print(table)
    lines = output.getvalue().splitlines()
    (hidden,) = (line for line in lines if "hidden_0" in line)
    assert "0.25" in hidden and "1e-05" in hidden and "failed" in hidden
    (free,) = (line for line in lines if "free" in line)
    assert "ok" in free
    (accuracy,) = (line for line in lines if "token accuracy" in line)
    assert "0.9000" in accuracy and "0.8900" in accuracy and "0.0100" in accuracy and "ok" in accuracy
    assert len(report(row("hidden_0", 0)).tables()) == 1


def test_the_worst_of_each_row_is_kept_and_not_a_number_never_passes() -> None:
    worst = Worst()
    for difference in (1e-7, 3e-6, 2e-6):
        worst.add("random inputs", "step", "hidden_0", difference, 1e-5, 4)
    worst.add("random inputs", "step", "cell_0", math.nan, 1e-5, 4)
    worst.add("random inputs", "step", "cell_0", 0, 1e-5, 4)
    first, second = worst.rows()
    assert (first.tensor, first.difference, first.count, first.passed) == ("hidden_0", 3e-6, 12, True)
    assert (second.tensor, second.difference, second.passed) == ("cell_0", math.inf, False)


def test_the_limit_grows_with_the_references_rounding_at_that_length_alone() -> None:
    worst = Worst()

    def add(longest: int, difference: float, rounding: float) -> Check:
        worst.add("random inputs", "step", "hidden_0", difference, 1e-5, 4, rounding, longest)
        (row,) = worst.rows()
        return row

    long = add(33, 3e-5, 9e-6)
    assert (long.longest, long.difference, long.rounding, long.count) == (33, 3e-5, 9e-6, 4)
    assert long.limit == pytest.approx(3.6e-5) and long.passed
    near = add(1, 9e-6, 1e-6)
    assert (near.longest, near.difference, near.rounding, near.limit) == (1, 9e-6, 1e-6, 1e-5), "nearer to its limit"
    assert near.passed and near.count == 8
    assert add(33, 1e-5, 9e-6) == near.model_copy(update={"count": 12}), "larger, and further from its limit"
    over = add(1, 1.1e-5, 1e-6)
    assert not over.passed, "what the long batches are allowed is no excuse here"
    assert (over.longest, over.difference, over.limit, over.count) == (1, 1.1e-5, 1e-5, 16)
    assert add(1, 0, 5e-6).passed, "batches of one length are judged together"
    assert add(7, 1.9e-5, 1e-6).passed, "what a shorter one is allowed, a longer one is as well"
    assert not add(7, 2.1e-5, 1e-6).passed
    assert worst.widest_limit("hidden_0") == pytest.approx(3.6e-5) and worst.widest_limit("cell_0") == 0


@pytest.mark.parametrize("differences", [(0.0, 1e-9, 0.0), (1e-9, 0.0, 1e-10)])
def test_of_probes_that_allow_nothing_the_largest_difference_is_kept(differences: tuple[float, ...]) -> None:
    worst = Worst()
    for difference in differences:
        worst.add("alone = batched", "step", "hidden_0", difference, 0, 4)
    (row,) = worst.rows()
    assert row.difference == 1e-9 and not row.passed


def test_the_longest_names_fit_a_terminal_of_100_columns() -> None:
    longest = Check(
        check="greedy, real inputs",
        graph="sequence",
        tensor="final_hidden_7_backward",
        difference=1.2e-5,
        rounding=3.4e-6,
        limit=1.4e-5,
        count=9_999_999,
    )
    output = StringIO()
    for table in report(longest, row("hidden_0", 1.0)).tables():
        Console(file=output, width=100).print(table)
    (line,) = (line for line in output.getvalue().splitlines() if "final_hidden" in line)
    assert line.split() == [
        *("greedy,", "real", "inputs", "sequence", "final_hidden_7_backward"),
        *("1.2e-05", "3.4e-06", "1.4e-05", "9,999,999", "ok"),
    ]


def test_a_row_that_compared_nothing_is_named_even_where_nothing_is_demanded() -> None:
    assert "expected any difference, got nothing compared" in report(row("hidden_0", 0, None, count=0)).verdict()
