"""What a run says while it trains."""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from models.training.fit import fit


def lines_of(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> list[str]:
    for interval in ("_LINE_EVERY_S", "_BAR_EVERY_S"):
        monkeypatch.setattr(f"models.training.report.{interval}", 0.0)
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    fit(write_config("tagger", limits={"epochs": 2}), tmp_path / "run", console=console)
    return out.getvalue().splitlines()


def test_plain_lines_have_rate_loss_metric_and_time_left(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lines_of(write_config, tmp_path, monkeypatch, terminal=False)
    assert lines[0].startswith("train: 40 sentences, ")
    steps = [line for line in lines if re.match(r"step \d+/\d+  ", line)]
    whole = int(steps[0].split("/")[1].split()[0])
    assert len(steps) == whole
    assert re.fullmatch(rf"step 1/{whole}  [\d.]+ steps/s  loss \d\.\d+  0:\d\d left", steps[0])
    best = r"best accuracy 0?\.?\d+"
    assert re.fullmatch(rf"step {whole}/{whole}  [\d.]+ steps/s  loss \d\.\d+  {best}  0:00 left", steps[-1])
    evaluations = [line for line in lines if " dev: accuracy " in line]
    assert len(evaluations) == 2
    assert evaluations[0].endswith("(best so far)")
    assert any("\x1b" in line for line in lines) is False


def test_a_terminal_gets_a_bar(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lines_of(write_config, tmp_path, monkeypatch, terminal=True)
    assert any("training" in line and "━" in line for line in lines)
    assert not any(re.match(r"step \d+/\d+  ", line) for line in lines)
