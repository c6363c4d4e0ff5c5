"""The config of a training run: one YAML file, validated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from models.config import ModelConfig
from models.training.data_config import (
    CmudictData,
    ColumnsData,
    ConlluData,
    DataConfig,
    GruutData,
    LabelledData,
    ParallelData,
    ParallelTsvData,
    Strict,
    TextData,
)
from models.training.errors import ConfigError
from models.training.yaml_file import read_yaml

Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class TokenizerConfig(Strict):
    """How the text of one role becomes tokens, and which tokens are kept."""

    kind: Literal["characters", "whitespace", "subword", "none"]
    lowercase: bool = False
    reverse: bool = Field(default=False, description="source only: read back to front (Sutskever et al. 2014)")
    min_count: int = Field(default=1, ge=1, description="rarer tokens are read as <unk>")
    max_size: int | None = Field(default=None, ge=8, description="entries in all, special symbols included")


class OptimiserConfig(Strict):
    """The optimiser and its peak learning rate."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Positive = Field(default=1e-3, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1, description="adam, adamw")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="adam, adamw")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="sgd")
    weight_decay: float = Field(default=0.0, ge=0, le=100)


class ScheduleConfig(Strict):
    """How the learning rate moves: up during warmup, then as named; see `models.training.schedule`."""

    name: Literal["constant", "linear", "cosine", "inverse_sqrt", "plateau"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    final: float = Field(default=0.0, ge=0, le=1, description="linear, cosine: fraction of the peak at the end")
    factor: float = Field(default=0.5, gt=0, lt=1, description="plateau: multiplier when the metric stalls")
    patience: int = Field(default=1, ge=1, description="plateau: evaluations without a better metric")
    follow_time: bool = Field(
        default=False,
        description="linear, cosine: also count the time budget, so that the rate has come down when max_minutes ends "
        "the run; the run then depends on the speed of the machine",
    )


class BatchConfig(Strict):
    """How many tokens one step sees."""

    max_tokens: int = Field(default=4096, ge=1, description="tagger, encoder-decoder: padded tokens, both sides")
    max_rows: int = Field(default=512, ge=1, description="tagger, encoder-decoder: examples")
    tracks: int = Field(default=20, ge=1, description="language model: parallel pieces of the text")
    chunk: int = Field(default=35, ge=1, description="language model: steps of truncated backpropagation")


class LimitsConfig(Strict):
    """When training ends: at whichever comes first, after a last evaluation."""

    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    max_minutes: Positive | None = Field(
        default=None, description="training and evaluations, resumes added up; depends on the machine"
    )
    patience: int | None = Field(default=None, ge=1, description="evaluations without a better metric")

    @model_validator(mode="after")
    def _some_limit(self) -> "LimitsConfig":
        if self.epochs is None and self.steps is None and self.max_minutes is None:
            raise ValueError("expected at least one of epochs, steps and max_minutes")
        return self


class EvaluationConfig(Strict):
    """When and how the dev split is evaluated during training."""

    best: str = Field(description="which metric chooses the best weights, such as accuracy; without `dev/`")
    every_steps: int | None = Field(default=None, ge=1, description="None: once an epoch")
    max_examples: int | None = Field(default=None, ge=1, description="a fixed sample of dev; None: all of it")
    max_rows: int = Field(default=128, ge=1, description="examples decoded at once")
    tracks: int = Field(default=10, ge=1, description="language model: parallel pieces of the text")
    beam_size: int = Field(
        default=1, ge=1, le=1000, description="encoder-decoder: for `evaluate`; training decodes greedily"
    )
    length_penalty: float = Field(default=0.6, ge=0, le=10, description="exponent alpha of Wu et al. 2016")
    max_tokens: int = Field(default=128, ge=1, le=10_000, description="encoder-decoder: longest answer")


_FORMATS: dict[str, tuple[type[Strict], ...]] = {
    "tagger": (ConlluData, ColumnsData),
    "encoder_decoder": (ParallelData, ParallelTsvData, LabelledData, CmudictData, GruutData),
    "language_model": (TextData,),
}
_METRICS: dict[type[Strict], tuple[str, ...]] = {
    ConlluData: ("accuracy",),
    ColumnsData: ("accuracy", "f1"),
    ParallelData: ("bleu", "loss"),
    ParallelTsvData: ("bleu", "loss"),
    LabelledData: ("accuracy", "loss"),
    CmudictData: ("wer", "per", "loss"),
    GruutData: ("wer", "per", "loss"),
    TextData: ("perplexity", "loss", "bits_per_character"),
}
_ROLES: dict[str, dict[str, TokenizerConfig | None]] = {
    # The default of each role; None: the config must say.
    "tagger": {"words": TokenizerConfig(kind="none"), "characters": TokenizerConfig(kind="characters")},
    "encoder_decoder": {"source": None, "target": None},
    "language_model": {"tokens": None},
}


class RunConfig(Strict):
    """Everything that decides how a run ends up, machine and package versions apart."""

    name: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(default=1, ge=0, lt=2**32)
    data: DataConfig
    tokenizers: dict[str, TokenizerConfig] = Field(
        default_factory=dict, description="by role: source, target; words, characters; or tokens"
    )
    model: ModelConfig
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip_norm: Positive | None = Field(default=1.0, description="largest global gradient norm; None: no clipping")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="encoder-decoder (Szegedy et al. 2016)")
    batch: BatchConfig = BatchConfig()
    limits: LimitsConfig
    evaluation: EvaluationConfig
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(default=1, ge=1, le=64, description="how many, by Lightning")
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of one operator; None: PyTorch's choice"
    )
    log_every_steps: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        family = self.model.family
        if not isinstance(self.data, _FORMATS[family]):
            names = [kind.model_fields["format"].annotation.__args__[0] for kind in _FORMATS[family]]  # type: ignore[union-attr]
            raise ValueError(f"data.format: a {family} expects {' or '.join(names)}, got {self.data.format}")
        known = _ROLES[family]
        if unknown := sorted(set(self.tokenizers) - set(known)):
            raise ValueError(f"tokenizers.{unknown[0]}: a {family} expects {' and '.join(known)}, got {unknown[0]}")
        if missing := sorted(
            role for role, default in known.items() if default is None and role not in self.tokenizers
        ):
            raise ValueError(f"tokenizers.{missing[0]}: expected a tokenizer for this role, got none")
        self._check_kinds()
        allowed = self._metrics()
        if self.evaluation.best not in allowed:
            raise ValueError(f"evaluation.best: expected {' or '.join(allowed)}, got {self.evaluation.best}")
        endless = self.limits.steps is None and self.limits.epochs is None
        if self.schedule.name in ("linear", "cosine") and endless and not self.schedule.follow_time:
            raise ValueError("schedule.follow_time: expected true where max_minutes is the only limit, got false")
        if self.schedule.follow_time and self.limits.max_minutes is None:
            raise ValueError("limits.max_minutes: expected a time budget for schedule.follow_time, got none")
        return self

    def _check_kinds(self) -> None:
        for role, tokenizer in self.tokenizers.items():
            allowed = {"words": ("none",), "characters": ("characters",)}.get(
                role, ("characters", "whitespace", "subword")
            )
            if tokenizer.kind not in allowed:
                raise ValueError(f"tokenizers.{role}.kind: expected {' or '.join(allowed)}, got {tokenizer.kind}")
            if tokenizer.reverse and role != "source":
                raise ValueError(f"tokenizers.{role}.reverse: only a source can be reversed")
            if tokenizer.kind == "subword" and tokenizer.max_size is None:
                raise ValueError(f"tokenizers.{role}.max_size: expected a size for a subword vocabulary, got none")
        if isinstance(self.data, CmudictData | GruutData) and (
            self.tokenizers["source"].kind != "characters" or self.tokenizers["target"].kind != "whitespace"
        ):
            raise ValueError("tokenizers: a lexicon expects source.kind characters and target.kind whitespace")

    def _metrics(self) -> tuple[str, ...]:
        if isinstance(self.data, ColumnsData) and not self.data.bio:
            return ("accuracy",)
        if isinstance(self.data, TextData) and self.tokenizers["tokens"].kind != "characters":
            return ("perplexity", "loss")
        return _METRICS[type(self.data)]

    def tokenizer(self, role: str) -> TokenizerConfig:
        """The tokenizer config of a role, the default where the file says nothing."""
        found = self.tokenizers.get(role) or _ROLES[self.model.family].get(role)
        assert found is not None, role
        return found


def load_config(path: Path) -> RunConfig:
    """Read and validate a config file.

    Raises:
        ConfigError: One line that names the file, the key, what was expected and what was found.
    """
    content = read_yaml(path)
    try:
        return RunConfig.model_validate(content, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Put the first thing wrong in one line: key, expected, got."""
    first, more = error.errors(include_url=False)[0], error.error_count() - 1
    # A discriminated union puts its tag into the path, which is no key of the file.
    tags = {"tagger", "encoder_decoder", "language_model"} | set(_ALL_FORMATS)
    key = ".".join(str(part) for part in first["loc"] if str(part) not in tags)
    if first["type"] == "extra_forbidden":
        said = "unknown key"
    else:
        message = first["msg"].removeprefix("Value error, ")
        value = first["input"]
        shown = "" if isinstance(value, dict | list) or ", got" in message else f", got {value!r}"
        said = (
            message[:1].lower() + message[1:] if message.startswith(("Input", "Field", "Unable")) else message
        ) + shown
    return (f"{key}: " if key else "") + said + (f" (and {more} more)" if more else "")


_ALL_FORMATS = ("conllu", "columns", "parallel", "parallel_tsv", "labelled", "cmudict", "gruut", "text")


def save_config(config: RunConfig, path: Path) -> None:
    """Write a config that `load_config` reads back the same; data paths are relative to the file's folder."""
    content = config.model_dump(mode="json", context={"folder": path.resolve().parent})
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def differences(left: RunConfig, right: RunConfig) -> list[str]:
    """Name the keys in which two configs differ, with both values."""
    a, b = _flat(left.model_dump(mode="json")), _flat(right.model_dump(mode="json"))
    return [
        f"{key} ({a.get(key)!r} against {b.get(key)!r})" for key in sorted(set(a) | set(b)) if a.get(key) != b.get(key)
    ]


def _flat(content: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
