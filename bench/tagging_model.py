"""The tagger that the benchmark asks: two bidirectional LSTM layers of 256, 17 tags, random weights; and its sentences.

Sentences have 5 to 50 tokens, 20 on average. Words are short and their characters cheap (one unit each direction), so
that what is measured is the word LSTM, as in the figures of other servers.
"""

import random
from pathlib import Path

from bench.untrained import Kind, publish_untrained
from export.manifest import DecodingDefaults, Precision
from models.config import TaggerConfig
from models.symbols import SPECIALS

WORDS, DIM, HIDDEN, LAYERS, TAGS = 10_000, 256, 256, 2, 17
SHORTEST, LONGEST, MEAN = 5, 50, 20
NAME = "bench-tagger"
_SHAPE = 2.0  # of the gamma distribution beyond the shortest: right-skewed, as lengths of sentences are
_SCALE = 8.0  # with what is above LONGEST drawn again, the mean is MEAN


def name_of(precision: Precision) -> str:
    """What the model is called in the repository."""
    return NAME if precision == "fp32" else f"{NAME}-{precision}"


def publish(repository: Path, precision: Precision = "fp32") -> Path:
    """Write the model into a repository as version 1; returns the bundle's folder."""
    config = TaggerConfig(
        word_dim=DIM, character_dim=1, character_hidden=1, hidden=HIDDEN, layers=LAYERS, dropout=0.0, cell="lstm"
    )
    vocabularies = {
        "words": [*SPECIALS, *(f"w{i}" for i in range(WORDS - len(SPECIALS)))],
        "characters": [*SPECIALS, *"w0123456789"],
        "tags": [f"T{i}" for i in range(TAGS)],
    }
    kinds: dict[str, Kind] = {"words": "none", "characters": "characters", "tags": "none"}
    return publish_untrained(
        repository, name_of(precision), config, vocabularies, kinds, precision, DecodingDefaults(top_k=1)
    )


def sentences(count: int, seed: int = 1) -> list[list[str]]:
    """Draw sentences of words that the model knows."""
    draw = random.Random(seed)
    drawn: list[list[str]] = []
    while len(drawn) < count:
        length = SHORTEST + round(draw.gammavariate(_SHAPE, _SCALE))
        if length <= LONGEST:
            drawn.append([f"w{draw.randrange(WORDS - len(SPECIALS))}" for _ in range(length)])
    return drawn
