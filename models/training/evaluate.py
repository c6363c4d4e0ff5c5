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
        Metrics by name: `<split>/<metric>` of the model, `baseline/<split>/<metric>` of the baseline.

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
    return found | {f"baseline/{split}/{name}": value for name, value in task.baseline(split).items()}


def show(metrics: dict[str, float], split: str, console: Console) -> None:
    """Print a table: a metric a line, the model beside the baseline."""
    table = Table("metric", "model", "baseline", "better is", title=f"{split} split")
    for name, better in HIGHER_IS_BETTER.items():
        if f"{split}/{name}" in metrics:
            baseline = metrics.get(f"baseline/{split}/{name}")
            table.add_row(
                name,
                f"{metrics[f'{split}/{name}']:.4f}",
                "" if baseline is None else f"{baseline:.4f}",
                "higher" if better else "lower",
            )
    console.print(table)
