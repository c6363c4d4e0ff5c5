"""The models that the configs train, with random weights and vocabularies of their sizes: no data, no training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml
from pydantic import TypeAdapter

from bench.untrained import Kind, publish_untrained
from export.manifest import MANIFEST_FILE, DecodingDefaults
from models.config import ModelConfig
from models.symbols import SPECIALS

CONFIGS: Final = Path(__file__).parents[2] / "configs"
# By config and role, the tokens of what was trained on its data, special symbols included.
SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    "demo": {"source": 44, "target": 44},
    "cmudict": {"source": 33, "target": 43},
    "multi30k_de_en": {"source": 5000, "target": 5000},
    "lm_tinyshakespeare": {"tokens": 69},
    "lm_wikitext2": {"tokens": 33_280},
    "tagger_ewt": {"words": 8869, "characters": 106, "tags": 17},
    "ner_wnut17": {"words": 3710, "characters": 96, "tags": 13},
}

# How text becomes tokens, by role where it matters; nobody asks for it here.
KINDS: Final[Mapping[str, Kind]] = {"characters": "characters", "words": "none", "tags": "none"}


def publish(repository: Path, name: str) -> Path:
    """Write the model of a config into a repository as version 1, unless it is there; returns the bundle's folder.

    Args:
        repository: Made if need be.
        name: Of the config, without its ending.
    """
    folder = repository / name / "1"
    if (folder / MANIFEST_FILE).exists():
        return folder
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    config: ModelConfig = TypeAdapter(ModelConfig).validate_python(content["model"])
    words = {role: _words(role, size) for role, size in SIZES[name].items()}
    kinds = {role: KINDS.get(role, "whitespace") for role in words}
    return publish_untrained(repository, name, config, words, kinds, "fp32", DecodingDefaults())


def _words(role: str, size: int) -> list[str]:
    """So many tokens; tags are a closed set without special symbols."""
    special = () if role == "tags" else SPECIALS
    return [*special, *(f"w{i}" for i in range(size - len(special)))]
