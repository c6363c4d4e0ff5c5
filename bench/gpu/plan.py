"""How much is measured: everything on a card, or every part tiny, to see that the script itself works."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.gpu import config_models
from bench.gpu.budget import Budget
from bench.gpu.journal import Journal
from models.config import Cell
from service.runtime.providers import CPU, CUDA

# Largest absolute difference from the processor, of every output and state, TF32 off; those of the export.
PARITY_LIMITS: Final[Mapping[str, float]] = {"fp32": 1e-5, "fp16": 0.05}
GOAL: Final = 1.5  # times the step of PyTorch's captured graph that a step in process may take
TOP_K: Final = 1  # of the step models: what a session is answered


@dataclass(frozen=True)
class Size:
    """See the module docstring. The defaults are what is measured on a card.

    Args:
        vocabulary: V of the step models.
        embedding: E of the step models.
        hiddens: H of them, one model each.
        layers: L of them.
        sessions: Open sessions; in process, rows of one run.
        seconds: Of each measurement in process.
        wire_seconds: Of each measurement through gRPC, and of warming up a quarter.
        streams: Of gRPC, at most; they carry all sessions.
        cells: Of the models whose answers are compared.
        width: Of their layers.
        configs: Whose models are run on the processor and on the card.
        crossover_rows: Batch sizes at which the processor and the card are compared.
        crossover_seconds: Of each of those measurements.
        budgets: Seconds by part.
    """

    vocabulary: int = 10_000
    embedding: int = 256
    hiddens: tuple[int, ...] = (512, 1024)
    layers: int = 2
    sessions: tuple[int, ...] = (64, 1024, 4096, 16384)
    seconds: float = 0.4
    wire_seconds: float = 1.5
    streams: int = 32
    cells: tuple[Cell, ...] = ("lstm", "gru")
    width: int = 96
    configs: tuple[str, ...] = tuple(config_models.SIZES)
    crossover_rows: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    crossover_seconds: float = 0.1
    budgets: Mapping[str, float] = field(
        default_factory=lambda: {
            "machine": 10,
            "models": 50,
            "parity": 75,
            "residence": 25,
            "traffic": 20,
            "peer": 35,
            "steps": 70,
            "wire": 150,
            "crossover": 35,
        }
    )


FULL: Final = Size()
SMOKE: Final = Size(
    vocabulary=60,
    embedding=6,
    hiddens=(8,),
    sessions=(2, 5),
    seconds=0.03,
    wire_seconds=0.3,
    streams=2,
    cells=("gru",),
    width=6,
    configs=("demo", "tagger_ewt"),
    crossover_rows=(1, 3),
    crossover_seconds=0.02,
)


@dataclass(frozen=True)
class Context:
    """What a part is given.

    Args:
        provider: Of ONNX Runtime, which is shown.
        size: How much is measured.
        work: Folder of this run: journals, logs.
        models: Folder of the bundles, a repository.
        journal: Where its findings go.
        budget: Its seconds.
    """

    provider: str
    size: Size
    work: Path
    models: Path
    journal: Journal
    budget: Budget

    @property
    def on_card(self) -> bool:
        """Whether this is the real thing, and no trial of the script."""
        return self.provider == CUDA


def provider_named(name: str) -> str:
    """ONNX Runtime's name of `cuda` or `cpu`."""
    return CUDA if name == "cuda" else CPU
