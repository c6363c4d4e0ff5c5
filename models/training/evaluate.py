"""Evaluate a model beside the common-sense baseline of its task."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from models.training.checkpoint import load
from models.training.corpus import read_corpus
from models.training.run import check_same_data
from models.training.scorer import HIGHER_IS_BETTER
from models.training.task import Task, make_task


def evaluate(run: Path, split: str = "dev", console: Console | None = None) -> dict[str, float]:
    """Evaluate a finished run on a whole split and print the baseline beside it.

    Args:
        run: The run folder.
        split: train, dev or test.
        console: Where the table goes; None is standard output.

    Returns:
        Metrics by name: `<split>/<metric>` of the model, `baseline/<split>/<metric>` of the baseline (and
        `unigram/<split>/<metric>` for a language model).

    Raises:
        RunError: No finished run, or the data have changed since.
        DataError: The data cannot be read, or there is no such split.
    """
    checkpoint = load(run)
    corpus = read_corpus(checkpoint.config.data)
    check_same_data(run, corpus)
    metrics = compare(make_task(checkpoint.config, corpus, checkpoint.tokenizers), checkpoint.model, split)
    show(metrics, split, console or Console())
    return metrics


def compare(task: Task, model: nn.Module, split: str) -> dict[str, float]:
    """Score a model and the baseline on the same examples.

    Args:
        task: With the data.
        model: In eval mode.
        split: Which split, all of it.
    """
    scorer, batches = task.evaluation(model, split, None, final=True)
    with torch.no_grad():
        for batch in batches:
            scorer.add(batch)
    found = {f"{split}/{name}": value for name, value in scorer.metrics().items()}
    for baseline, numbers in task.baselines(split).items():
        found |= {f"{baseline}/{split}/{name}": value for name, value in numbers.items()}
    return found


def show(metrics: dict[str, float], split: str, console: Console) -> None:
    """Print a table: a metric a line, the model beside the baselines."""
    baselines = sorted({name.split("/")[0] for name in metrics} - {split})
    table = Table(title=f"{split} split")
    for heading in ("metric", "model", *baselines, "better is"):
        table.add_column(heading, justify="left" if heading in ("metric", "better is") else "right")
    for name, higher in HIGHER_IS_BETTER.items():
        if f"{split}/{name}" in metrics:
            values = [metrics.get(key) for key in (f"{split}/{name}", *(f"{b}/{split}/{name}" for b in baselines))]
            shown = ["-" if value is None else f"{value:.4f}" for value in values]
            table.add_row(name, *shown, "higher" if higher else "lower")
    console.print(table)
