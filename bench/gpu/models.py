"""The bundles that everything is shown on, with random weights; no data is needed.

Small ones of every family and cell, whose answers are compared, and the step models, which are timed. Only this part
needs torch and onnx. A folder that is given with --models keeps them for a machine that has neither.
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Final, cast, get_args

from bench.gpu import config_models
from bench.gpu.journal import NOTE
from bench.gpu.plan import TOP_K, Context, Size
from bench.report import Row
from bench.untrained import Kind, publish_untrained
from export.manifest import MANIFEST_FILE, DecodingDefaults, GraphKind, Manifest, Precision
from models.config import EncoderDecoderConfig, LanguageModelConfig, ModelConfig, TaggerConfig
from models.symbols import SPECIALS

TABLE: Final = "models"
PRECISIONS: Final = ("fp32", "fp16")  # of the step models, in the order in which they are measured
COMPARED: Final = ("fp32", "fp16", "int8")
_WORDS: Final = 40  # a vocabulary of the small ones, special symbols included
_TAGS: Final = 9
_UNASKED: Final[tuple[GraphKind, ...]] = ("chunk",)  # of the step models, which are large: sessions send step by step


def step_name(hidden: int, precision: str) -> str:
    """What a step model is called."""
    return f"lstm-{hidden}-{precision}"


def timed(models: Path) -> Path:
    """The repository of the step models."""
    return models / "timed"


def compared(models: Path) -> Path:
    """The repository of the small ones."""
    return models / "compared"


def configured(models: Path) -> Path:
    """The repository of the models that the configs train."""
    return models / "configured"


def bundle(repository: Path, name: str) -> Path:
    """The folder of a model.

    Raises:
        FileNotFoundError: It was not made.
    """
    folder = repository / name / "1"
    if not (folder / MANIFEST_FILE).exists():
        raise FileNotFoundError(f"expected the model {name}, got none: the table of models says why")
    return folder


def manifest_of(folder: Path) -> Manifest:
    """The manifest of a bundle that was made here; its files are not hashed once more, which takes seconds."""
    return Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())


def small_models(size: Size) -> dict[str, ModelConfig]:
    """One of each family and cell, and of what makes another graph of it."""
    wide, narrow = size.width, max(size.width // 3, 2)
    models: dict[str, ModelConfig] = {}
    for cell in size.cells:
        tagger = TaggerConfig(
            cell=cell, word_dim=wide, character_dim=narrow, character_hidden=narrow, hidden=wide, layers=2, dropout=0.0
        )
        models[f"tagger-{cell}"] = tagger
        models[f"tagger-{cell}-forward"] = tagger.model_copy(update={"bidirectional": False})
        language = LanguageModelConfig(cell=cell, dim=wide, hidden=wide, layers=2, dropout=0.0)
        models[f"language-{cell}"] = language
        models[f"language-{cell}-tied"] = language.model_copy(update={"tied": True})
        for attention in ("additive", "multiplicative"):
            models[f"translator-{cell}-{attention}"] = EncoderDecoderConfig(
                cell=cell,
                source_dim=wide,
                target_dim=wide,
                hidden=wide,
                attention_dim=narrow,
                attention="additive" if attention == "additive" else "multiplicative",
                decoder_layers=2,
                dropout=0.0,
            )
    return models


def made(repository: Path) -> list[str]:
    """The models that a repository has, in the order of their names."""
    return sorted(path.parents[1].name for path in repository.glob(f"*/1/{MANIFEST_FILE}"))


def make(context: Context) -> None:
    """The part: the step models first, without which nothing is timed."""
    size, known = context.size, get_args(Precision)
    for precision in dict.fromkeys((*PRECISIONS, *COMPARED)):
        if precision not in known:
            context.journal.row(TABLE, {"models": f"all in {precision}", NOTE: f"the export has {', '.join(known)}"})
    for hidden in size.hiddens:
        config = LanguageModelConfig(cell="lstm", dim=size.embedding, hidden=hidden, layers=size.layers, dropout=0.0)
        for precision in (one for one in PRECISIONS if one in known):
            name = step_name(hidden, precision)
            head: Row = {"models": name}
            one = partial(_publish, context, timed(context.models), name, config, precision, size.vocabulary, TOP_K)
            context.journal.attempt(TABLE, head, one)
    for precision in (one for one in COMPARED if one in known):
        context.journal.attempt(TABLE, {"models": f"small ones in {precision}"}, partial(_small, context, precision))
    context.journal.attempt(TABLE, {"models": "those of the configs"}, partial(_configured, context))


def _small(context: Context, precision: str) -> Row:
    """All small models in a precision."""
    before, models = context.budget.used, small_models(context.size)
    for name, config in models.items():
        _publish(context, compared(context.models), f"{name}-{precision}", config, precision, _WORDS, 4)
    return {"number": len(models), "s": context.budget.used - before}


def _configured(context: Context) -> Row:
    """All that the configs train."""
    before = context.budget.used
    for name in context.size.configs:
        context.budget.need(1.0)
        config_models.publish(configured(context.models), name)
    return {"number": len(context.size.configs), "s": context.budget.used - before}


def _publish(
    context: Context, repository: Path, name: str, config: ModelConfig, precision: str, num_words: int, top_k: int
) -> Row:
    before, folder = context.budget.used, repository / name / "1"
    if not (folder / MANIFEST_FILE).exists():
        context.budget.need(1.0)
        shutil.rmtree(folder, ignore_errors=True)  # half of one, of a run that was ended
        words, kinds = _vocabularies(config, num_words)
        decoding = DecodingDefaults(top_k=top_k)
        exact = cast(Precision, precision)
        for_cuda, without = precision != "int8", _UNASKED if repository == timed(context.models) else ()
        publish_untrained(repository, name, config, words, kinds, exact, decoding, for_cuda=for_cuda, without=without)
    step = folder / "step.onnx"
    megabytes = step.stat().st_size / 1e6 if step.exists() else None
    return {"number": 1, "s": context.budget.used - before, "step graph MB": megabytes}


def _vocabularies(config: ModelConfig, num_words: int) -> tuple[dict[str, list[str]], dict[str, Kind]]:
    """Tokens by role, and how text becomes them."""
    words = [*SPECIALS, *(f"w{i}" for i in range(num_words - len(SPECIALS)))]
    match config:
        case TaggerConfig():
            tags = [f"T{i}" for i in range(_TAGS)]
            return (
                {"words": words, "characters": words, "tags": tags},
                {"words": "none", "characters": "characters", "tags": "none"},
            )
        case EncoderDecoderConfig():
            return {"source": words, "target": words}, {"source": "whitespace", "target": "whitespace"}
    return {"tokens": words}, {"tokens": "whitespace"}
