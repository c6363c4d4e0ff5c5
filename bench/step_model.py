"""The model that the benchmark steps: a word language model with random weights.

Embedding 10,000 x 256, two LSTM layers of 512, projection to 10,000 (the step model of every figure in the docs).
"""

from pathlib import Path

from bench.untrained import publish_untrained
from export.manifest import DecodingDefaults, Precision
from models.config import LanguageModelConfig
from models.symbols import SPECIALS

VOCABULARY, EMBEDDING, HIDDEN, LAYERS = 10_000, 256, 512, 2
NAME = "bench-lstm"


def name_of(precision: Precision) -> str:
    """What the model is called in the repository."""
    return NAME if precision == "fp32" else f"{NAME}-{precision}"


def publish(repository: Path, precision: Precision = "fp32") -> Path:
    """Write the model into a repository as version 1; returns the bundle's folder."""
    config = LanguageModelConfig(cell="lstm", dim=EMBEDDING, hidden=HIDDEN, layers=LAYERS, dropout=0.0)
    words = [*SPECIALS, *(f"w{i}" for i in range(VOCABULARY - len(SPECIALS)))]
    return publish_untrained(
        repository,
        name_of(precision),
        config,
        {"tokens": words},
        {"tokens": "whitespace"},
        precision,
        DecodingDefaults(top_k=1),
    )
