"""The command with servers that need no environment of their own: both plain ones, in this interpreter."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import step_model
from bench.peers import __main__ as command
from bench.peers import catalogue
from bench.peers.measure import Result
from bench.peers.process import descendants
from bench.peers.report import Report, show


@pytest.fixture
def plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment `plain` that is this one, and the small model."""
    python = tmp_path / "plain" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(catalogue, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(command, "ENVIRONMENTS", tmp_path)
    for name, value in (("VOCABULARY", 30), ("EMBEDDING", 6), ("HIDDEN", 8)):
        monkeypatch.setattr(step_model, name, value)


QUICK = ["--only-peers", "--rounds", "2", "--seconds", "0.3", "--warmup", "0.1", "--threads", "1"]


@pytest.mark.slow
@pytest.mark.usefixtures("plain_environment")
def test_plain_peers_are_measured_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, out = descendants(), tmp_path / "out.json"
    command.main(["alone", "stream", "litserve", *QUICK, "--sessions", "1", "5", "--json", str(out)])
    shown = capsys.readouterr().out
    written = json.loads(out.read_text())
    rows = {(row["name"], row["sessions"]): row for row in written["rows"]}
    assert sorted(rows) == [("alone", 1), ("alone", 5), ("stream", 1), ("stream", 5)]
    assert written["faults"] == {}
    for row in rows.values():
        assert row["judged"] >= 2 * 0.3 * row["steps_per_s"] * 0.5 > 0
        assert row["ratio"] is None and row["service_steps_per_s"] is None
        assert f"{row['steps_per_s']:,.0f}" in shown
    assert "LitServe 0.2.19 is not installed: bash bench/peers/litserve/install.sh" in shown
    assert descendants() == before


@pytest.mark.slow
@pytest.mark.usefixtures("plain_environment")
def test_a_peer_that_mixes_sessions_up_is_told_so_and_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "mixed.py").write_text(
        "import uvloop\n"
        "from bench.peers.plain import stream\n"
        "step = stream.StateTable.step\n"
        "stream.StateTable.step = lambda table, requests: step(table, requests)[::-1]\n"
        "uvloop.run(stream.serve(stream.read_options()))\n"
    )
    peer = catalogue.Peer("mixed", "Mixed up", "mixed", "sessions", "", None, "plain")
    monkeypatch.setattr(command, "PEERS", (peer,))
    monkeypatch.setattr(command, "ROOT", f"{command.ROOT}:{folder}")
    out = tmp_path / "out.json"
    command.main(["mixed", *QUICK, "--sessions", "8", "--json", str(out)])
    written = json.loads(out.read_text())
    assert written["rows"] == []
    assert "expected token" in written["faults"]["mixed"]
    assert "Mixed up is not timed: session" in capsys.readouterr().out


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(SystemExit, match=r"expected one of alone, stream, .* or all, got nobody"):
        command.main(["alone", "nobody"])


def result(steps_per_s: float, p50_ms: float, judged: int) -> Result:
    return Result(steps_per_s, p50_ms, p50_ms * 2, 0.1, judged)


def test_the_ratio_is_the_median_over_rounds_of_neighbours() -> None:
    report = Report("a", "A")
    for ours, theirs in ((800.0, 100.0), (300.0, 100.0), (900.0, 300.0)):
        report.turns.append(({64: result(ours, 1.0, 9)}, {64: result(theirs, 5.0, 10)}))
    (row,) = report.rows()
    assert (row.ratio, row.steps_per_s, row.service_steps_per_s) == (3.0, 100.0, 800.0)
    assert (row.p50_ms, row.p99_ms, row.service_p50_ms, row.judged) == (5.0, 10.0, 1.0, 30)
    console = Console(width=150, record=True)
    show([report, Report("b", "B", fault="session 3 lost [order]")], console)
    text = console.export_text()
    assert "3.00" in text and "B is not timed: session 3 lost [order]" in text


def test_a_peer_with_a_fault_has_no_figures() -> None:
    report = Report("a", "A", [({}, {64: result(1.0, 1.0, 1)})], fault="wrong")
    assert report.rows() == []
