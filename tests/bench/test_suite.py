"""Each benchmark from its command to its files, small, against the real service."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench import step_model, tagging_model, transducer_model
from bench.__main__ import main

PLOTS = find_spec("matplotlib") is not None  # without it there are tables and JSON alone
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("VOCABULARY", 300), ("EMBEDDING", 8), ("HIDDEN", 12)):
        monkeypatch.setattr(step_model, name, value)
    for name, value in (("WORDS", 300), ("DIM", 8), ("HIDDEN", 10)):
        monkeypatch.setattr(tagging_model, name, value)
    for name, value in (("WORDS", 60), ("DIM", 8), ("HIDDEN", 8), ("ATTENTION", 6), ("LONGEST", 10)):
        monkeypatch.setattr(transducer_model, name, value)


def run(folder: Path, *arguments: str) -> tuple[list[dict[str, Any]], list[str], dict[str, Any]]:
    """Rows, notes and details of a benchmark."""
    assert main([*arguments, "--seconds=0.5", "--warmup=0.2", "--rounds=1", f"--out={folder}", "--runners=1"]) == 0
    content = json.loads((folder / f"{arguments[0]}.json").read_text())
    assert content["machine"]["cores"] and content["machine"]["onnxruntime"]
    return content["rows"], content["notes"], content["details"]


def test_steps(tmp_path: Path) -> None:
    rows, notes, _ = run(
        tmp_path, "steps", "--sessions", "1", "6", "--steps", "1", "3", "--streams=2", "--precisions=fp32"
    )
    assert [(row["sessions"], row["steps"], row["streams"]) for row in rows] == [
        (1, 1, 1), (1, 3, 1), (6, 1, 2), (6, 1, 6), (6, 3, 2), (6, 3, 6),
    ]  # fmt: skip
    for row in rows:
        assert row["ratio"] == pytest.approx(row["steps/s"] / row["ceiling"])
        assert 0 < row["p50 ms"] <= row["p99 ms"] and row["worst/mean wait"] >= 1
        assert 0 < row["generator CPU"] < 1 and row["server CPU"] > 0
        assert (row["raw step ms"] is None) == (row["sessions"] != 1)
    assert int(notes[0].split()[0]) >= 6 * 3 and "equal to the raw runtime's" in notes[0]
    assert not PLOTS or (tmp_path / "steps.svg").stat().st_size > 1000


def test_tagging(tmp_path: Path) -> None:
    rows, notes, _ = run(tmp_path, "tagging", "--callers", "1", "5", "--precisions=fp32", "--sentences=64")
    assert [(row["callers"], row["wire"]) for row in rows] == [
        (1, "unary"), (1, "stream"), (5, "unary"), (5, "stream"),
    ]  # fmt: skip
    for row in rows:
        assert row["sentences/s"] > 0 and row["ceiling"] > 0 and row["refused"] == 0
        assert 0 < row["p50 ms"] <= row["p99 ms"]
    assert int(notes[0].split()[0]) > sum(row["sentences/s"] for row in rows) * 0.5


def test_poisson(tmp_path: Path) -> None:
    rows, _, details = run(tmp_path, "poisson", "--requests=20", "--callers=4", "--loads", "0.3")
    assert set(details["capacities"]) == {"step", "request"}
    assert [row["batching"] for row in rows] == ["step", "request"] * (len(rows) // 2)
    for row in rows:
        assert row["of its capacity"] == pytest.approx(row["arrivals/s"] / details["capacities"][row["batching"]])
        assert 0 < row["first p50 ms"] <= row["p50 ms"] <= row["p99 ms"]


def test_overload(tmp_path: Path) -> None:
    rows, _, details = run(
        tmp_path, "overload", "--sessions=24", "--callers=8", "--streams=2", "--load=0.2", "--flood=0.6"
    )
    assert [row["part"] for row in rows] == ["before", "flood", "after"]
    before, flood, after = rows
    assert flood["arrivals/s"] > 1.5 * max(before["arrivals/s"], after["arrivals/s"])
    for row, phase in zip(rows, details["result"]["phases"], strict=True):
        assert row["answered/s"] == pytest.approx(phase["answered"] / 0.5)
        assert row["RSS MiB, most"] > 20
    assert len(details["result"]["bins"]) == 17 and details["back_s"] >= 0
    assert details["memory"][0][0] >= 0 and details["capacity"] > 0


def test_memory(tmp_path: Path) -> None:
    rows, _, _ = run(tmp_path, "memory", "--sessions=120", "--few=20", "--slots=16", "--streams=3", "--rate=400")
    assert rows[0]["sessions"] == 120 and rows[0]["state bytes"] == 4 * 12 * 4
    assert rows[0]["host state MiB"] > 0, "most of them have no slot"
    assert rows[0]["RSS MiB, all"] > 20


def test_a_first_reading_that_is_not_smaller_is_refused() -> None:
    with pytest.raises(SystemExit, match="--few: expected 1 to 9, got 10"):
        main(["memory", "--sessions=10", "--few=10"])
