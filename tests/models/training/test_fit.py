"""Runs from beginning to end: they learn, they leave what export needs, and they refuse what they cannot do."""

import json
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from models.training.batches import Batch
from models.training.checkpoint import load
from models.training.config import load_config
from models.training.data_config import ParallelTsvData
from models.training.errors import ConfigError, DivergenceError, RunError
from models.training.evaluate import evaluate
from models.training.families import EncoderDecoderModule, TaggerModule
from models.training.fit import fit
from models.training.lock import locked
from models.training.run import is_finished, state_path

WriteConfig = Callable[..., Path]


def said(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("tagger", {"limits": {"epochs": 4}}),
        ("tagger", {"limits": {"epochs": 4}, "model": {"crf": False}, "evaluation": {"best": "f1"}}),
        (
            "encoder_decoder",
            {
                "train_size": 300,
                "limits": {"epochs": 15},
                "model": {"hidden": 16},
                "evaluation": {"best": "bleu", "beam_size": 2},
            },
        ),
        (
            "language_model",
            {
                "train_size": 300,
                "limits": {"epochs": 14},
                "model": {"dim": 12, "hidden": 12},
                "batch": {"tracks": 6},
                "optimiser": {"learning_rate": 0.03},
            },
        ),
    ],
)
def test_every_family_learns_its_task(
    family: str, changes: dict[str, Any], cell: str, write_config: WriteConfig, tmp_path: Path, console: Console
) -> None:
    changes = {**changes, "model": {**changes.get("model", {}), "cell": cell, "dropout": 0.0}}
    run = fit(write_config(family, **changes), tmp_path / "run", console=console)
    metrics = load(run).metrics
    if family == "tagger":
        assert metrics["dev/accuracy"] >= 0.9 > metrics["baseline/dev/accuracy"]
        assert metrics["dev/f1"] >= 0.9
    elif family == "encoder_decoder":
        # The dictionary knows the letters too: this shows that the order of a sentence was learned.
        assert metrics["dev/bleu"] >= 80
        assert metrics["dev/loss"] <= 0.2
    else:
        # Two tokens in three are certain; how long a line is, and its first word, are not.
        assert metrics["dev/perplexity"] <= 1.15 * metrics["baseline/dev/perplexity"]
        assert metrics["dev/perplexity"] <= 0.6 * metrics["unigram/dev/perplexity"]


@pytest.mark.parametrize("family", ["tagger", "encoder_decoder", "language_model"])
def test_a_checkpoint_has_all_that_was_agreed(
    family: str, write_config: WriteConfig, tmp_path: Path, console: Console
) -> None:
    path = write_config(family, limits={"epochs": 1})
    run = fit(path, tmp_path / "run", console=console)
    files = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    roles = {
        "tagger": {"words", "characters", "tags"},
        "encoder_decoder": {"source", "target"},
        "language_model": {"tokens"},
    }[family]
    assert files >= {
        "config.yaml",
        "weights.safetensors",
        "metrics.json",
        "data.json",
        "versions.json",
        "samples.jsonl",
        "training/last.ckpt",
        *(f"vocabulary/{role}.json" for role in roles),
    }
    assert not [file for file in files if "tmp" in file]
    checkpoint = load(run)
    assert checkpoint.config == load_config(path)
    assert set(checkpoint.tokenizers) == roles
    assert not checkpoint.model.training
    assert [file["name"] for file in checkpoint.data["files"]] == [  # type: ignore[attr-defined]
        f"{family}.{split}" for split in ("train", "dev", "test")
    ]
    keys = {"tagger": {"words", "tags"}, "encoder_decoder": {"source", "targets"}, "language_model": {"text"}}[family]
    assert len(checkpoint.samples) == 10
    assert all(set(sample) == keys for sample in checkpoint.samples)
    versions = json.loads((run / "versions.json").read_text())
    assert versions["torch"] == torch.__version__


def test_a_finished_run_is_left_alone(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    path = write_config("tagger", limits={"epochs": 1})
    run = fit(path, tmp_path / "run", console=console)
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    assert fit(path, run, console=console) == run
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before
    assert "is a finished run: nothing to train" in said(console)


def test_a_run_of_another_config_is_refused(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    run = fit(write_config("tagger", limits={"steps": 1}), tmp_path / "run", console=console)
    with pytest.raises(RunError, match=r"made with another config: limits.steps \(1 against 2\), seed \(1 against 7\)"):
        fit(write_config("tagger", limits={"steps": 2}, seed=7), run, console=console)


def test_data_that_have_changed_are_refused(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    path = write_config("encoder_decoder", limits={"steps": 1})
    run = fit(path, tmp_path / "run", console=console)
    config = load_config(path)
    assert isinstance(config.data, ParallelTsvData)
    with config.data.dev.open("a") as file:
        file.write("a\tA\n")
    with pytest.raises(RunError, match="the data have changed: counts"):
        evaluate(run, console=console)


def test_an_unfinished_run_can_be_refused(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    path = write_config("tagger")
    break_at(monkeypatch, TaggerModule, 3, float("nan"))
    with pytest.raises(DivergenceError):
        fit(path, tmp_path / "run", console=console)
    assert not is_finished(tmp_path / "run")
    with pytest.raises(RunError, match="expected no run, got an unfinished one"):
        fit(path, tmp_path / "run", resume=False, console=console)
    with pytest.raises(RunError, match="expected a finished training run, got a run that has not finished"):
        load(tmp_path / "run")
    with pytest.raises(RunError, match="expected a finished training run, got no run"):
        load(tmp_path / "absent")


def break_at(monkeypatch: pytest.MonkeyPatch, module: Any, step: int, value: float) -> None:
    loss = module.loss

    def broken(self: Any, batch: Batch) -> torch.Tensor:
        right: torch.Tensor = loss(self, batch)
        return right * value if self.progress.position.step + 1 == step else right

    monkeypatch.setattr(module, "loss", broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_the_step(
    value: float, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    break_at(monkeypatch, EncoderDecoderModule, 4, value)
    with pytest.raises(DivergenceError, match=rf"the loss is {value} at step 4: expected a finite number") as error:
        fit(write_config("encoder_decoder"), tmp_path / "run", console=console)
    assert error.value.step == 4


def test_gradients_are_clipped_together(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    norms = []
    clip = TaggerModule.configure_gradient_clipping

    def watched(self: TaggerModule, *arguments: Any, **named: Any) -> None:
        def together() -> float:
            flat = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
            return float(torch.cat(flat).norm())

        before = together()
        clip(self, *arguments, **named)
        norms.append((before, float(self.last_norm or 0), together()))

    monkeypatch.setattr(TaggerModule, "configure_gradient_clipping", watched)
    fit(write_config("tagger", clip_norm=0.05, limits={"steps": 5}), tmp_path / "run", console=console)
    assert len(norms) == 5
    for before, told, after in norms:
        assert told == pytest.approx(before, rel=1e-5)
        assert before > 0.05
        assert after == pytest.approx(0.05, rel=1e-3)


def test_numbers_are_logged_for_tensorboard(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    run = fit(write_config("tagger", log_every_steps=2, limits={"steps": 5}), tmp_path / "run", console=console)
    events = EventAccumulator(str(run / "training"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        "train/loss",
        "train/learning_rate",
        "train/gradient_norm",
        "dev/accuracy",
        "gradient_norm/output.weight",
        "gradient_norm/stack.rnn.weight_hh_l0",
    }
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == [2, 4]
    parts = [events.Scalars(tag)[0].value for tag in tags if tag.startswith("gradient_norm/")]
    whole = events.Scalars("train/gradient_norm")[0].value
    assert sum(part**2 for part in parts) ** 0.5 == pytest.approx(whole, rel=1e-4)


def test_training_stops_when_the_metric_stalls_and_keeps_the_best_weights(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    accuracies = iter([0.2, 0.5, 0.4, 0.3, 0.9])
    weights = []

    def stalled(self: TaggerModule) -> None:
        self.dev_metrics = {"accuracy": next(accuracies)}
        weights.append({name: value.clone() for name, value in self.model.state_dict().items()})

    monkeypatch.setattr(TaggerModule, "on_validation_epoch_end", stalled)
    run = fit(write_config("tagger", limits={"epochs": 9, "patience": 2}), tmp_path / "run", console=console)
    assert len(weights) == 4
    assert "training ended: no better accuracy for 2 evaluations" in said(console)
    best = load(run).model.state_dict()
    assert all(torch.equal(best[name], value) for name, value in weights[1].items())


def test_a_spent_time_budget_ends_the_run_with_an_evaluation(
    write_config: WriteConfig, tmp_path: Path, console: Console
) -> None:
    config = write_config("tagger", limits={"epochs": 1000, "max_minutes": 1e-6})
    run = fit(config, tmp_path / "run", console=console)
    assert "training ended: the budget of 1e-06 minutes is spent" in said(console)
    assert load(run).metrics["dev/accuracy"] >= 0
    progress = torch.load(state_path(run), weights_only=True)["progress"]
    # The first batch spends it; the second had been read ahead.
    assert progress["position"]["step"] <= 2
    assert progress["evaluations"] == 1
    assert progress["elapsed_s"] > 0


def test_an_evaluation_shows_the_baseline_beside_the_model(
    write_config: WriteConfig, tmp_path: Path, console: Console
) -> None:
    run = fit(write_config("language_model", limits={"epochs": 1}), tmp_path / "run", console=console)
    metrics = evaluate(run, "test", console)
    assert {name.split("/")[0] for name in metrics} == {"test", "baseline", "unigram"}
    table = said(console).split("test split")[1]
    assert f"{metrics['test/perplexity']:.4f}" in table
    assert f"{metrics['baseline/test/perplexity']:.4f}" in table
    # The dev numbers of the run are those that were written when it ended.
    assert evaluate(run, "dev", console) == load(run).metrics


def test_unknown_splits_are_refused(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    run = fit(write_config("tagger", limits={"steps": 1}), tmp_path / "run", console=console)
    with pytest.raises(ValueError, match="no such split, expected train or dev or test, got held-out"):
        evaluate(run, "held-out", console)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tagger", "encoder_decoder", "language_model"])
def test_bf16_trains(family: str, write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    run = fit(write_config(family, precision="bf16", limits={"steps": 3}), tmp_path / "run", console=console)
    weights = load(run).model.state_dict()
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_subwords_and_labels_make_runs_too(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    for split, repeats in (("train", 30), ("dev", 3)):
        (tmp_path / f"mail.{split}").write_text("ham\tsee you soon\nspam\twin a prize now\n" * repeats)
    config = write_config(
        "encoder_decoder",
        data={"format": "labelled", "train": "mail.train", "dev": "mail.dev", "test": None},
        tokenizers={"source": {"kind": "subword", "max_size": 280}, "target": {"kind": "whitespace"}},
        evaluation={"best": "accuracy"},
        limits={"epochs": 4},
    )
    checkpoint = load(fit(config, tmp_path / "run", console=console))
    assert checkpoint.metrics["baseline/dev/accuracy"] == 0.5
    assert checkpoint.metrics["dev/accuracy"] == 1.0
    assert checkpoint.tokenizers["source"].decode(checkpoint.tokenizers["source"].encode("win now")) == "win now"


def test_damaged_files_of_a_run_are_named(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    run = fit(write_config("tagger", limits={"steps": 1}), tmp_path / "run", console=console)
    weights = (run / "weights.safetensors").read_bytes()
    (run / "weights.safetensors").write_bytes(weights[:-7])
    with pytest.raises(RunError, match=r"weights.safetensors: expected weights in safetensors format"):
        load(run)
    (run / "weights.safetensors").write_bytes(weights)
    vocabulary = run / "vocabulary" / "tags.json"
    vocabulary.write_text('{"num_special": 0, "tokens": ["O"]}')
    with pytest.raises(RunError, match=r"weights.safetensors: crf.end: expected shape \(1,\), got \(2,\)"):
        load(run)
    (run / "config.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match=r"config.yaml: data: field required"):
        load(run)


def test_training_works_outside_the_main_thread(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    config, runs = write_config("tagger", limits={"steps": 1}), []
    thread = threading.Thread(target=lambda: runs.append(fit(config, tmp_path / "run", console=console)))
    thread.start()
    thread.join(60)
    assert runs == [tmp_path / "run"]


def test_a_folder_in_training_is_refused_to_a_second_process(
    write_config: WriteConfig, tmp_path: Path, console: Console
) -> None:
    path, run = write_config("tagger", limits={"steps": 1}), tmp_path / "run"
    # A lock is of the open file, so that this stands for another process.
    with locked(run), pytest.raises(RunError, match="expected a folder that nobody uses, got one in training"):
        fit(path, run, console=console)
    assert not is_finished(run)
    fit(path, run, console=console)
    assert is_finished(run)


def test_a_run_folder_that_cannot_be_made_is_refused(
    write_config: WriteConfig, tmp_path: Path, console: Console
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/run: cannot be used as a run folder: Not a directory"):
        fit(write_config("tagger"), tmp_path / "file" / "run", console=console)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(write_config: WriteConfig, tmp_path: Path, console: Console) -> None:
    with pytest.raises(ConfigError, match="accelerator: expected 1 CUDA devices on this machine, got 0"):
        fit(write_config("tagger", accelerator="cuda"), tmp_path / "run", console=console)
    with pytest.raises(ConfigError, match="precision: expected fp32 or bf16 without a CUDA device, got fp16"):
        fit(write_config("tagger", precision="fp16"), tmp_path / "run", console=console)
