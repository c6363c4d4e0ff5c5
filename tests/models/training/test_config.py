"""Configs: what is refused, and in which words; and the ones that are shipped."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from models.training.config import differences, load_config, save_config
from models.training.data_config import ConlluData, ParallelData
from models.training.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_named_like_their_file(path: Path) -> None:
    assert load_config(path).name == path.stem


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"name": "adam"}}, "optimizer: unknown key"),
        ({"optimiser": {"lr": 0.1}}, "optimiser.lr: unknown key"),
        ({"model": {"hiden": 3}}, "model.hiden: unknown key"),
        ({"model": {"hidden": 0}}, "model.hidden: input should be greater than or equal to 1, got 0"),
        ({"model": {"cell": "rnn"}}, "model.cell: input should be 'lstm' or 'gru', got 'rnn'"),
        ({"model": {"family": "transformer"}}, "model: input tag 'transformer'"),
        ({"optimiser": {"learning_rate": 0}}, "optimiser.learning_rate: input should be greater than 0, got 0"),
        ({"data": {"format": "text"}}, "data.train_file: unknown key"),
        ({"data": {"format": "csv"}}, "data: input tag 'csv'"),
        ({"limits": {"epochs": None}}, "limits: expected at least one of epochs, steps and max_minutes"),
        ({"evaluation": {"best": "bleu"}}, "evaluation.best: expected accuracy or f1, got bleu"),
        ({"tokenizers": {"source": {"kind": "none"}}}, "tokenizers.source: a tagger expects words and characters"),
        ({"tokenizers": {"words": {"kind": "subword"}}}, "tokenizers.words.kind: expected none, got subword"),
        ({"schedule": {"follow_time": True}}, "limits.max_minutes: expected a time budget for schedule.follow_time"),
        ({"optimiser": {"learning_rate": float("inf")}}, "optimiser.learning_rate: input should be"),
        ({"limits": {"max_minutes": float("nan")}}, "limits.max_minutes: input should be"),
        ({"threads": 10**6}, "threads: input should be less than or equal to 1024, got 1000000"),
        ({"name": "My run"}, "name: String should match pattern"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    changes: dict[str, object], said: str, write_config: Callable[..., Path]
) -> None:
    if changes.get("data") == {"format": "text"}:
        changes = {"data": {"train_file": "x"}}
    path = write_config("tagger", **changes)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("encoder_decoder", {"tokenizers": None}, "tokenizers: Input should be"),
        ("encoder_decoder", {"data": {"format": "text"}}, "data.format: a encoder_decoder expects"),
        (
            "encoder_decoder",
            {"tokenizers": {"target": {"kind": "characters", "reverse": True}}},
            "tokenizers.target.reverse",
        ),
        ("encoder_decoder", {"tokenizers": {"source": {"kind": "subword"}}}, "tokenizers.source.max_size: expected"),
        ("language_model", {"model": {"bidirectional": True}}, "model: a language model cannot be bidirectional"),
        ("language_model", {"model": {"hidden": 7}}, "model: tied needs dim = hidden, got dim 6 and hidden 7"),
        ("language_model", {"evaluation": {"best": "bits_per_character"}}, "evaluation.best: expected perplexity"),
        ("language_model", {"data": {"file": "x"}}, "data: expected either train and dev, or file"),
        (
            "language_model",
            {"limits": {"epochs": None, "max_minutes": 1}, "schedule": {"name": "cosine"}},
            "schedule.follow_time: expected true",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    family: str, changes: dict[str, object], said: str, write_config: Callable[..., Path]
) -> None:
    path = write_config(family, **changes)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert said.lower() in str(error.value).lower()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML"),
        ("- a", "expected keys and values, got list"),
        ("", "got NoneType"),
        ("seed: 1\nmodel: {cell: gru, cell: lstm}", "expected each key once, got 'cell' on line 2 and on line 2"),
        ("seed: 1\nseed: 2", "expected each key once, got 'seed' on line 1 and on line 2"),
        ("[" * 5000, "expected a few levels of nesting, got too many"),
    ],
)
def test_a_file_that_is_no_config_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(path)
    with pytest.raises(ConfigError, match=r"absent.yaml: cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_data_paths_follow_the_config_file(write_config: Callable[..., Path], tmp_path: Path) -> None:
    path = write_config("encoder_decoder")
    content = yaml.safe_load(path.read_text())
    folder = tmp_path / "deep" / "configs"
    folder.mkdir(parents=True)
    both = {"source": "../de.txt", "target": "/en.txt"}
    content["data"] = {"format": "parallel", "train": both, "dev": both}
    (folder / "c.yaml").write_text(yaml.safe_dump(content))
    config = load_config(folder / "c.yaml")
    assert isinstance(config.data, ParallelData)
    assert config.data.train.source == tmp_path / "deep" / "de.txt"
    assert config.data.train.target == Path("/en.txt")


def test_a_saved_config_reads_back_the_same_from_anywhere(tmp_path: Path) -> None:
    config = load_config(next(path for path in CONFIGS if path.stem == "tagger_ewt"))
    assert isinstance(config.data, ConlluData)
    copy = tmp_path / "a" / "config.yaml"
    copy.parent.mkdir()
    save_config(config, copy)
    assert load_config(copy) == config
    assert yaml.safe_load(copy.read_text())["data"]["train"][0] != "/"  # relative


def test_differences_name_the_keys_and_both_values(write_config: Callable[..., Path]) -> None:
    one = load_config(write_config("tagger"))
    two = load_config(write_config("tagger", seed=2, model={"hidden": 9}))
    assert differences(one, two) == ["model.hidden (6 against 9)", "seed (1 against 2)"]
    assert differences(one, one) == []
