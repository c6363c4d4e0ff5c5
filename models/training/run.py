"""The run folder: begun once, gone on with as often as needed."""

from pathlib import Path

from models.tokenizer import Tokenizer
from models.training.checkpoint import (
    CONFIG,
    DATA,
    METRICS,
    VERSIONS,
    package_versions,
    read_json,
    save_samples,
    write_json,
)
from models.training.config import RunConfig, differences, load_config, save_config
from models.training.corpus import Corpus
from models.training.errors import RunError
from models.training.state import FILE
from models.training.task import Task, make_task
from models.training.tokenizers import build_tokenizers, load_tokenizers, save_tokenizers


def is_begun(run: Path) -> bool:
    """Whether a run folder has all that is written before training."""
    return (run / CONFIG).is_file()


def is_finished(run: Path) -> bool:
    """Whether a run has ended: its metrics are written last."""
    return (run / METRICS).is_file()


def state_path(run: Path) -> Path:
    """Where the saved state is."""
    return run / "training" / FILE


def check_same_config(run: Path, config: RunConfig) -> None:
    """Refuse to go on with a run under another config.

    Raises:
        RunError: The configs differ; says in which keys.
    """
    if differing := differences(load_config(run / CONFIG), config):
        raise RunError(
            f"{run}: made with another config: {', '.join(differing)} (run folder against config given); "
            "give another name or remove the folder"
        )


def begin(run: Path, config: RunConfig, corpus: Corpus) -> Task:
    """Write everything that is known before training; the config last, which marks the run as begun."""
    run.mkdir(parents=True, exist_ok=True)
    tokenizers = build_tokenizers(config, corpus)
    save_tokenizers(tokenizers, run)
    task = make_task(config, corpus, tokenizers)
    save_samples(task.samples(), run)
    write_json(run / DATA, dict(corpus.record))
    write_json(run / VERSIONS, dict(package_versions()))
    save_config(config, run / CONFIG)
    return task


def go_on(run: Path, config: RunConfig, corpus: Corpus) -> Task:
    """Take up a run that has begun.

    Raises:
        RunError: The data are not those that it began with.
    """
    check_same_data(run, corpus)
    tokenizers: dict[str, Tokenizer] = load_tokenizers(config, run)
    return make_task(config, corpus, tokenizers)


def check_same_data(run: Path, corpus: Corpus) -> None:
    """Refuse data that have changed since the run began.

    Raises:
        RunError: Names the first thing that differs.
    """
    was, now = read_json(run / DATA), corpus.record
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            raise RunError(f"{run}: the data have changed: {key}: expected {was.get(key)}, got {now.get(key)}")
