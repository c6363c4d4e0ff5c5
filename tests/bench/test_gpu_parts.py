"""Parts in processes of their own: they keep what they found, however they end; journals, budgets, timing."""

import json
import os
import select
import sys
from pathlib import Path

import pytest

from bench.gpu import part as module
from bench.gpu import parts
from bench.gpu.budget import Budget, Spent
from bench.gpu.cards import Card
from bench.gpu.figures import CARD, TORCH, Torch, figures_of, row_of
from bench.gpu.journal import Found, Journal, aligned, read, reason_of
from bench.gpu.parts import Order, Part, run
from bench.gpu.timing import seconds_each

FOUND = 'open({path!r}, "a").write(\'{{"note": "found"}}\\n\')'


def order(work: Path, budget_s: float = 60.0) -> Order:
    return Order("peer", "cpu", True, str(work), str(work / "models"), budget_s)


def script(work: Path, then: str) -> list[str]:
    """A part that finds something, and then does what it is told."""
    begin = FOUND.format(path=str(work / "peer.jsonl"))
    return [sys.executable, "-c", f"import os, sys, time, subprocess\n{begin}\n{then}"]


def test_a_part_that_comes_to_its_end_has_no_fault(tmp_path: Path) -> None:
    outcome = run(order(tmp_path), script(tmp_path, "pass"))
    assert outcome.fault == "" and outcome.found.notes == ["found"]


@pytest.mark.parametrize(
    ("then", "fault"),
    [
        ("print('one', file=sys.stderr); sys.exit('the card is gone')", "the card is gone"),
        ("os.abort()", "the process was ended by SIGABRT"),
        ("sys.exit(7)", "exit status 7"),
    ],
)
def test_a_part_that_falls_over_says_why_and_keeps_what_it_found(tmp_path: Path, then: str, fault: str) -> None:
    outcome = run(order(tmp_path), script(tmp_path, then))
    assert outcome.fault == fault and outcome.found.notes == ["found"]


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """What it started holds a pipe, which comes to its end only when nobody is left who could write."""
    os.mkfifo(tmp_path / "pipe")
    reads = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    child = f"{deaf}; pipe = open({str(tmp_path / 'pipe')!r}, 'w'); pipe.write('x'); pipe.flush(); time.sleep(600)"
    outcome = run(
        order(tmp_path, budget_s=6.0),
        script(tmp_path, f"{deaf}; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"),
    )
    assert outcome.fault == "ended after its 6 s: what it had found is here"
    assert outcome.found.notes == ["found"]
    assert os.read(reads, 9) == b"x", "it had begun"
    poller = select.poll()
    poller.register(reads, select.POLLHUP)
    assert poller.poll(60_000) and os.read(reads, 9) == b"", "it is gone"  # killed, and soon buried
    os.close(reads)


def test_the_process_of_a_part_finds_by_name_what_to_do_and_says_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = sys.modules[__name__]
    monkeypatch.setitem(parts.PARTS, "peer", Part(__name__, "work", "tests"))
    monkeypatch.setattr(here, "work", lambda context: context.journal.note(f"{context.size.width}"), raising=False)
    told = Order.parse(json.dumps(order(tmp_path).__dict__))
    assert module.main(told) == 0 and read(tmp_path / "peer.jsonl").notes == ["6"]

    def fail(context: object) -> None:
        raise SystemExit("bench: no")

    monkeypatch.setattr(here, "work", fail, raising=False)
    assert module.main(told) == 1 and capsys.readouterr().err == "bench: no\n"


def test_a_journal_gives_back_what_was_written_but_for_a_line_that_was_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.row("one", {"a": 1, "b": None})
    assert journal.attempt("one", {"a": 2}, lambda: {"b": 0.5}) == {"b": 0.5}
    journal.note("said")
    journal.broken("a promise")
    with (tmp_path / "journal").open("a") as file:
        file.write('{"note": "cut')
    found = read(tmp_path / "journal")
    assert found == Found({"one": [{"a": 1, "b": None}, {"a": 2, "b": 0.5}]}, ["said"], ["a promise"])
    assert read(tmp_path / "none") == Found()


def test_an_attempt_that_fails_is_a_row_with_the_reason(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")

    def fail() -> dict[str, int]:
        raise MemoryError("out of\nmemory")

    assert journal.attempt("one", {"a": 1}, fail) is None
    journal.row("one", {"a": 2})
    found = read(tmp_path / "journal")
    assert found.empty_rows == [{"a": 1, "note": "MemoryError: out of ... memory"}]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("a"), "ValueError: a"),
        (ValueError(), "ValueError"),
        (SystemExit("bench: b\n\n  log\n last "), "bench: b ... last"),
        (SystemExit(2), "2"),
        (ValueError("x" * 300), "ValueError: " + "x" * 145 + "..."),
    ],
)
def test_reasons_are_one_short_line(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason


def test_rows_of_a_table_get_the_columns_of_all_and_the_note_last() -> None:
    rows = aligned([{"a": 1, "note": "why"}, {"a": 2, "b": 3}])
    assert [list(row.items()) for row in rows] == [
        [("a", 1), ("b", None), ("note", "why")],
        [("a", 2), ("b", 3), ("note", None)],
    ]


def test_a_budget_counts_down_and_then_refuses() -> None:
    now = [100.0]
    budget = Budget(10.0, lambda: now[0])
    now[0] = 107.0
    assert budget.left == 3.0 and budget.used == 7.0
    budget.need(3.0)
    with pytest.raises(Spent, match="not measured: the 10 s of this part are spent"):
        budget.need(3.5)
    now[0] = 120.0
    assert budget.left == 0.0


def test_the_first_runs_do_not_count_and_the_others_are_averaged() -> None:
    now, runs = [0.0], list[float]()

    def run_once() -> None:
        runs.append(now[0])
        now[0] += 100.0 if len(runs) <= 4 else 0.25

    assert seconds_each(run_once, 2.0, lambda: now[0]) == 0.25
    assert len(runs) == 4 + 8
    runs.clear()
    assert seconds_each(run_once, 0.0, lambda: now[0]) == 0.25 and len(runs) == 4 + 3


def test_parts_tell_each_other_of_the_card_and_of_torch(tmp_path: Path) -> None:
    assert figures_of(tmp_path) == (None, {})
    measured, sheet = Card("measured", 1e12, 2e12, 3e9), Card("sheet", 4e12, 5e12, 6e9)
    peer = Journal(tmp_path / "peer.jsonl")
    peer.row(CARD, {"by": "measured", **row_of(measured)})
    peer.row(TORCH, {"hidden": 8, "precision": "fp32", "sessions": 5, "eager us": 7.5, "captured us": None})
    peer.row(TORCH, {"hidden": 9, "precision": "fp16", "sessions": 6, "note": "out of memory"})
    assert figures_of(tmp_path) == (measured, {(8, "fp32", 5): Torch(7.5, None)})
    machine = Journal(tmp_path / "machine.jsonl")
    machine.row(CARD, {"by": "data sheet", "note": "LookupError"})
    assert figures_of(tmp_path).card == measured
    machine.row(CARD, {"by": "data sheet", **row_of(sheet)})
    assert figures_of(tmp_path).card == sheet
