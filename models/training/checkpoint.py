"""The checkpoint folder: what training leaves and export takes. See docs/architecture.md."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from models.build import build_model
from models.tokenizer import Tokenizer
from models.training.config import RunConfig, load_config
from models.training.errors import RunError
from models.training.tokenizers import load_tokenizers

CONFIG, WEIGHTS, METRICS, DATA, VERSIONS, SAMPLES = (
    "config.yaml",
    "weights.safetensors",
    "metrics.json",
    "data.json",
    "versions.json",
    "samples.jsonl",
)
_PACKAGES = ("torch", "lightning", "numpy", "safetensors", "tokenizers", "sacrebleu", "rapidfuzz")


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with everything that goes with it.

    Args:
        config: The whole config; `config.model` is one of `models.config`.
        model: With the best weights, in eval mode, on the CPU.
        tokenizers: By role: source and target; words, characters and tags; or tokens.
        metrics: Such as `dev/accuracy` and `baseline/dev/accuracy`.
        data: Files with SHA-256, counts of each split, split seed.
        samples: Raw inputs of the dev split, with what is right for them.
    """

    config: RunConfig
    model: nn.Module
    tokenizers: dict[str, Tokenizer]
    metrics: dict[str, float]
    data: dict[str, object]
    samples: tuple[dict[str, object], ...]


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint folder; nothing in it is executed.

    Raises:
        RunError: The folder is not a finished run, or a file of it is damaged.
        ConfigError: Its config is invalid.
        DataError: Its vocabularies are damaged.
    """
    if not (folder / METRICS).is_file():
        state = "a run that has not finished" if (folder / CONFIG).is_file() else "no run"
        raise RunError(f"{folder}: expected a finished training run, got {state}")
    config = load_config(folder / CONFIG)
    tokenizers = load_tokenizers(config, folder)
    model = build_model(config.model, vocabulary_sizes(tokenizers))
    load_weights(model, folder)
    return Checkpoint(
        config,
        model.eval(),
        tokenizers,
        {name: float(value) for name, value in read_json(folder / METRICS).items() if isinstance(value, int | float)},
        read_json(folder / DATA),
        tuple(_samples(folder / SAMPLES)),
    )


def vocabulary_sizes(tokenizers: Mapping[str, Tokenizer]) -> dict[str, int]:
    """Entries of each vocabulary, by role."""
    return {role: len(tokenizer.vocabulary) for role, tokenizer in tokenizers.items()}


def save_weights(model: nn.Module, run: Path) -> None:
    """Write `weights.safetensors`, atomically."""
    # Cloned: the format refuses tensors that share memory.
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    temporary = run / f".{WEIGHTS}.tmp"
    temporary.write_bytes(save(weights))
    temporary.replace(run / WEIGHTS)


def load_weights(model: nn.Module, run: Path) -> None:
    """Read `weights.safetensors` into a model.

    Raises:
        RunError: The file is missing or damaged, or is not of this model.
    """
    path = run / WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: expected weights in safetensors format, got: {error}") from None
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != got:
        name = next(n for n in sorted(expected.keys() | got.keys()) if expected.get(n) != got.get(n))
        raise RunError(f"{path}: {name}: expected shape {expected.get(name)}, got {got.get(name)}")
    model.load_state_dict(weights)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON, atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        RunError: The file is missing or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected a JSON object, got: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def save_samples(samples: Sequence[Mapping[str, object]], run: Path) -> None:
    """Write `samples.jsonl`."""
    lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    (run / SAMPLES).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _samples(path: Path) -> list[dict[str, object]]:
    try:
        # Split at LF alone: a text may hold U+2028 and its like.
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: expected one JSON object a line, got: {error}") from None
    if not all(isinstance(sample, dict) for sample in found):
        raise RunError(f"{path}: expected one JSON object a line")
    return found


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that training depends on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}
