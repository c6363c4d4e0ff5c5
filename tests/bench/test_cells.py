"""The bench of cells: what it times, and what it says where there is nothing to time."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import cells
from export.emit.builder import Cells
from models.config import Cell
from tests.export.emit.runtime import run, session


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_candidates_are_the_same_step_out_of_different_operators(cell: Cell) -> None:
    rng = np.random.default_rng(0)
    feeds = {"tokens": rng.integers(0, cells.VOCABULARY, 3), "read_slots": np.array([2, 3, 4])}
    feeds["write_slots"] = np.array([5, 6, 4])
    names = ["hidden_0", "cell_0", "hidden_1", "cell_1"] if cell == "lstm" else ["hidden_0", "hidden_1"]
    for name in names:
        feeds[f"{name}_pool"] = rng.uniform(-1, 1, (8, 12)).astype(np.float32)
    found, operators = [], []
    candidates: tuple[Cells, ...] = ("node", "primitive", "folded")
    for candidate in candidates:
        graph = cells.emit_cells(cell, 12, 2, "fp32", candidate)
        assert graph is not None
        model = graph.build()
        found.append(run(session(model), feeds))
        operators.append({node.op_type for node in model.graph.node})
    for one in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_allclose(one[name], values, atol=1e-5, rtol=0)
    assert [cell.upper() in kinds for kinds in operators] == [True, False, False]


@pytest.mark.slow
def test_what_is_too_large_to_fold_is_no_candidate() -> None:
    assert cells.emit_cells("lstm", 2048, 1, "fp32", "folded") is None


@pytest.mark.slow
def test_a_table_with_dashes_where_the_seconds_ran_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--hidden", "8,16", "--rows", "1,3"]
    assert cells.main([*sizes, "--layers", "1", "--each", "0", "--seconds", "600", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "cells-cpu.json").read_text())["rows"]
    assert [(row["hidden"], row["rows"]) for row in rows] == [(8, 1), (8, 3), (16, 1), (16, 3)]
    first = rows[0]
    assert first["quickest"] in ("node", "primitive", "folded")
    assert first["node / quickest"] >= 1 and all(first[f"{name} ms"] > 0 for name in ("node", "primitive", "folded"))
    assert cells.main([*sizes, "--layers", "1", "--seconds", "0", "--out", str(tmp_path)]) == 0
    assert {row["quickest"] for row in json.loads((tmp_path / "cells-cpu.json").read_text())["rows"]} == {None}
    assert "1 lstm layers, fp32, CPU" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cells.ort.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert cells.main(["--provider", "cuda"]) == 3
    assert capsys.readouterr().err == ("bench.cells: expected CUDAExecutionProvider, got an ONNX Runtime without it\n")
