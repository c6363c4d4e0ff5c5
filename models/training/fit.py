"""Train a model from a config: the first of the three journeys."""

import logging
import os
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from models.build import build_model
from models.training.checkpoint import METRICS, load_weights, vocabulary_sizes, write_json
from models.training.config import RunConfig, load_config
from models.training.corpus import read_corpus
from models.training.errors import ConfigError, RunError
from models.training.evaluate import compare, show
from models.training.keeper import Keeper
from models.training.lock import locked
from models.training.progress import Progress
from models.training.report import Report
from models.training.run import begin, check_same_config, go_on, is_begun, is_finished, state_path
from models.training.state import of_rank, read_state
from models.training.stream import Held, RoundStream
from models.training.task import Task

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def fit(config_path: Path, run: Path | None = None, resume: bool = True, console: Console | None = None) -> Path:
    """Train a model, or go on training it, and leave a checkpoint folder.

    Args:
        config_path: The YAML file.
        run: The run folder; None is `runs/<name>`.
        resume: Go on from the saved state of an unfinished run; else such a run is an error.
        console: Where progress is shown; None is standard output.

    Returns:
        The run folder. A finished run is left as it is.

    Raises:
        ConfigError: The config is invalid.
        DataError: The data are.
        RunError: The folder holds a run with another config or other data, or an unfinished one and not `resume`.
        DivergenceError: The loss became NaN or infinite.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    # Lightning starts a process a further device by the same command, with its number here: only the first one talks.
    first_process = os.environ.get("LOCAL_RANK", "0") == "0"
    console = (console or Console()) if first_process else Console(quiet=True)
    config = load_config(config_path)
    run = run or Path("runs") / config.name
    if is_begun(run):
        check_same_config(run, config)
    if is_finished(run):
        console.print(f"{run} is a finished run: nothing to train", highlight=False)
        return run
    _check_devices(config, config_path)
    with locked(run) if first_process else nullcontext():
        if is_begun(run) and not resume:
            raise RunError(f"{run}: expected no run, got an unfinished one; resume it or remove the folder")
        _fit(config, run, console)
    return run


def _fit(config: RunConfig, run: Path, console: Console) -> None:
    """Train and finish a run whose folder nobody else uses."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    corpus = read_corpus(config.data)
    task = go_on(run, config, corpus) if is_begun(run) else begin(run, config, corpus)
    show_data(task, console)
    model, first = _train(task, run, console)
    if first:
        load_weights(model, run)
        metrics = compare(task, model.eval(), "dev")
        write_json(run / METRICS, dict(metrics))
        show(metrics, "dev", console)


def _check_devices(config: RunConfig, path: Path) -> None:
    """Refuse devices that this machine has not.

    Raises:
        ConfigError: Says how many there are.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.accelerator == "cuda" and config.devices > found:
        raise ConfigError(f"{path}: accelerator: expected {config.devices} CUDA devices on this machine, got {found}")
    if config.accelerator == "auto" and found and config.devices > found:
        raise ConfigError(f"{path}: devices: expected at most {found}, got {config.devices}")
    if config.precision == "fp16" and (config.accelerator == "cpu" or not found):
        raise ConfigError(f"{path}: precision: expected fp32 or bf16 without a CUDA device, got fp16")


def show_data(task: Task, console: Console) -> None:
    """Say what there is to train on."""
    counts = cast(dict[str, dict[str, int]], task.corpus.record["counts"])
    for split, numbers in counts.items():
        said = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
        console.print(f"{split}: {said}", highlight=False)


def _trainer(config: RunConfig, run: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Lightning, with its own files, bars and banners switched off."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        precision=_PRECISION[config.precision],  # type: ignore[arg-type]
        logger=TensorBoardLogger(run / "training", name="", version=""),
        callbacks=callbacks,
        max_epochs=-1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _train(task: Task, run: Path, console: Console) -> tuple[torch.nn.Module, bool]:
    """Train until a limit is reached.

    Returns:
        The model with its last weights, not the best; and whether this is the first of several processes, which
        finishes the run.
    """
    config = task.config
    in_main_thread = threading.current_thread() is threading.main_thread()
    keeper = Keeper(run, config, handle_signals=in_main_thread)
    trainer = _trainer(config, run, [keeper, Report(console, config)])
    # All that is random from here on follows from the seed: first the weights, then dropout.
    pl.seed_everything(config.seed, verbose=False)
    model = build_model(config.model, vocabulary_sizes(task.tokenizers))
    torch.manual_seed(config.seed + trainer.global_rank)
    progress = Progress()
    data = task.training_data(trainer.global_rank, trainer.world_size)
    scorer, dev = task.evaluation(model, "dev", config.evaluation.max_examples, final=False)
    saved = of_rank(state_path(run), trainer.global_rank)
    if saved.is_file():
        keeper.state = read_state(saved)
        progress.restore(cast(dict[str, object], keeper.state["progress"]))
        console.print(f"going on from step {progress.position.step}", highlight=False)
    if progress.stopped is None:
        module = task.module_type(model, config, scorer, progress, data)
        stream = RoundStream(data, progress, config.limits, config.evaluation.every_steps)
        with warnings.catch_warnings():
            # Lightning takes our streams for a DataLoader without workers.
            warnings.filterwarnings("ignore", module="lightning")
            trainer.fit(module, stream, Held(dev))
    if trainer.is_global_zero:
        console.print(f"training ended: {progress.stopped}", highlight=False)
    return model, trainer.is_global_zero
