"""A run that was interrupted and resumed ends bit-identical to one that was not."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from models.training.batches import Batch
from models.training.errors import Interrupted
from models.training.families import EncoderDecoderModule, LanguageModelModule, TaggerModule
from models.training.fit import fit
from models.training.run import is_finished, state_path

MODULES = {"tagger": TaggerModule, "encoder_decoder": EncoderDecoderModule, "language_model": LanguageModelModule}
FAMILIES = sorted(MODULES)


def signal_at(monkeypatch: pytest.MonkeyPatch, family: str, steps: set[int], number: signal.Signals) -> None:
    """Send this process a signal in the middle of the given steps, counted over all of a run's parts."""
    module: Any = MODULES[family]
    loss = module.loss

    def interrupted(self: Any, batch: Batch) -> torch.Tensor:
        step = self.progress.position.step + 1
        if step in steps:
            steps.discard(step)
            os.kill(os.getpid(), number)
        result: torch.Tensor = loss(self, batch)
        return result

    monkeypatch.setattr(module, "loss", interrupted)


def saved(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(state_path(run), weights_only=True)
    del content["progress"]["elapsed_s"]
    return content


def assert_same(left: object, right: object, where: str = "") -> None:
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert isinstance(right, dict)
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert isinstance(right, list | tuple)
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    else:
        assert left == right, where


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_interrupted_at_random_batches_ends_bit_identical(
    family: str,
    number: signal.Signals,
    write_config: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    console: Console,
) -> None:
    config = write_config(family, limits={"epochs": 3}, optimiser={"name": "adam", "learning_rate": 0.01})
    whole = fit(config, tmp_path / "whole", console=console)
    total = saved(whole)["progress"]["position"]["step"]
    steps = set(random.Random(f"{family}{number}").sample(range(1, total), 3))
    signal_at(monkeypatch, family, set(steps), number)
    stops = []
    for _ in range(4):
        try:
            fit(config, tmp_path / "parts", console=console)
            break
        except Interrupted as stop:
            assert stop.signal_name == number.name
            assert not is_finished(tmp_path / "parts")
            stops.append(stop.step)
    assert stops == sorted(steps)
    assert is_finished(tmp_path / "parts")
    assert_same(saved(whole), saved(tmp_path / "parts"))
    for file in ("weights.safetensors", "metrics.json"):
        assert (whole / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_evaluations_in_the_middle_of_an_epoch_survive_an_interruption(
    family: str,
    write_config: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    console: Console,
) -> None:
    config = write_config(
        family, limits={"epochs": 2}, evaluation={"every_steps": 5}, schedule={"name": "plateau", "patience": 1}
    )
    whole = fit(config, tmp_path / "whole", console=console)
    # 7 is in the middle of a round; at 10 an evaluation is due, and the run stops after it.
    signal_at(monkeypatch, family, {7, 10}, signal.SIGTERM)
    for step in (7, 10):
        with pytest.raises(Interrupted) as stop:
            fit(config, tmp_path / "parts", console=console)
        assert stop.value.step == step
    fit(config, tmp_path / "parts", console=console)
    assert saved(whole)["progress"]["evaluations"] > 2
    assert_same(saved(whole), saved(tmp_path / "parts"))


def test_the_handlers_of_signals_are_given_back(
    write_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal_at(monkeypatch, "tagger", {2}, signal.SIGINT)
    with pytest.raises(Interrupted):
        fit(write_config("tagger"), tmp_path / "run", console=console)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_saved_state_executes_nothing_when_read(
    write_config: Callable[..., Path], tmp_path: Path, console: Console
) -> None:
    run = fit(write_config("language_model", limits={"steps": 2}), tmp_path / "run", console=console)
    content = torch.load(state_path(run), weights_only=True)
    assert set(content) == {"schema", "model", "optimiser", "precision", "progress", "carried", "random"}
    assert set(content["carried"]) == {"0", "1", "2", "3"}  # hidden and cell of two layers
