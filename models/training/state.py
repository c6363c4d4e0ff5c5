"""The saved state of a run: everything that an exact resume needs, and nothing that runs code when read."""

import os
import pickle
import random
from pathlib import Path
from typing import cast

import lightning.pytorch as pl
import torch

from models.training.errors import RunError
from models.training.module import TrainingModule

FILE = "last.ckpt"
_SCHEMA = 1


def save_state(path: Path, module: TrainingModule, trainer: pl.Trainer) -> None:
    """Write weights, optimiser, progress, carried state, loss scale and random states, atomically.

    With several devices each process writes a file of its own, for its carried and random states.
    """
    content = {
        "schema": _SCHEMA,
        "model": module.model.state_dict(),
        "optimiser": trainer.optimizers[0].state_dict(),
        "precision": trainer.precision_plugin.state_dict(),
        "progress": module.progress.saved(),
        "carried": module.carried(),
        "random": random_state(),
    }
    path = of_rank(path, trainer.global_rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def of_rank(path: Path, rank: int) -> Path:
    """The state file of a process: the first one has the plain name."""
    return path if rank == 0 else path.with_name(f"{path.stem}-{rank}{path.suffix}")


def read_state(path: Path) -> dict[str, object]:
    """Read what `save_state` wrote, executing nothing.

    Raises:
        RunError: The file is damaged or of another schema.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"{path}: expected a saved training state, got: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise RunError(f"{path}: expected a training state of schema {_SCHEMA}, got {found}")
    return content


def restore_state(content: dict[str, object], module: TrainingModule, trainer: pl.Trainer) -> None:
    """Put a saved state back, except for the progress, which whoever read the file takes over first."""
    module.model.load_state_dict(cast(dict[str, torch.Tensor], content["model"]))
    trainer.optimizers[0].load_state_dict(cast(dict[str, object], content["optimiser"]))
    trainer.precision_plugin.load_state_dict(cast(dict[str, object], content["precision"]))
    carried = cast(dict[str, torch.Tensor], content["carried"])
    module.restore_carried({name: value.to(module.device) for name, value in carried.items()})
    restore_random_state(cast(dict[str, object], content["random"]))


def random_state() -> dict[str, object]:
    """The state of every generator that training may draw from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}


def restore_random_state(state: dict[str, object]) -> None:
    """Take over what `random_state` gave."""
    torch.set_rng_state(cast(torch.Tensor, state["torch"]))
    random.setstate(cast(tuple[object, ...], state["python"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cast(list[torch.Tensor], state["cuda"]))
