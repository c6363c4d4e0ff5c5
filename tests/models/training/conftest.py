"""Tiny tasks that a tiny model can learn, one a family, as config and data files."""

import random
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

Family = str
WriteConfig = Callable[..., Path]


def _tagged(rng: random.Random, sentences: int) -> str:
    """Words whose tag is told by their last letter, and by the word before for `x`."""
    lines = []
    for _ in range(sentences):
        for _ in range(rng.randint(1, 6)):
            word = "".join(rng.choices("abc", k=rng.randint(1, 3))) + rng.choice("nv")
            lines.append(f"{word}\t{'B-noun' if word.endswith('n') else 'O'}")
        lines.append("")
    return "\n".join(lines) + "\n"


def _pairs(rng: random.Random, number: int) -> str:
    """Letters and the same letters in upper case."""
    words = (rng.choices("abcd", k=rng.randint(1, 5)) for _ in range(number))
    return "".join(f"{' '.join(word)}\t{' '.join(word).upper()}\n" for word in words)


def _text(rng: random.Random, lines: int) -> str:
    """Lines in which every word says which comes next."""
    words = ["one", "two", "three", "four"]
    out = []
    for _ in range(lines):
        start = rng.randrange(4)
        out.append(" ".join(words[(start + i) % 4] for i in range(rng.randint(1, 6))))
    return "\n".join(out) + "\n"


_FAMILIES: dict[Family, dict[str, object]] = {
    "tagger": {
        "data": {"format": "columns"},
        "model": {
            "family": "tagger",
            "word_dim": 6,
            "character_dim": 5,
            "character_hidden": 4,
            "hidden": 6,
            "word_dropout": 0.1,
            "crf": True,
        },
        "batch": {"max_tokens": 24, "max_rows": 6},
        "evaluation": {"best": "accuracy"},
    },
    "encoder_decoder": {
        "data": {"format": "parallel_tsv"},
        "tokenizers": {"source": {"kind": "whitespace"}, "target": {"kind": "whitespace"}},
        "model": {
            "family": "encoder_decoder",
            "source_dim": 6,
            "target_dim": 6,
            "hidden": 8,
            "attention_dim": 6,
        },
        "batch": {"max_tokens": 60, "max_rows": 8},
        "evaluation": {"best": "loss", "max_tokens": 8},
    },
    "language_model": {
        "data": {"format": "text"},
        "tokenizers": {"tokens": {"kind": "whitespace"}},
        "model": {"family": "language_model", "dim": 6, "hidden": 6, "layers": 2, "tied": True},
        "batch": {"tracks": 3, "chunk": 4},
        "evaluation": {"best": "perplexity", "tracks": 2},
    },
}


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Write a config and its data; keyword arguments replace or (dictionaries) extend its keys.

    `train_size` is how many sentences, pairs or lines there are to train on.
    """

    def write(family: Family, train_size: int = 40, **changes: object) -> Path:
        rng = random.Random(5)
        make = {"tagger": _tagged, "encoder_decoder": _pairs, "language_model": _text}[family]
        data = dict(_FAMILIES[family]["data"])  # type: ignore[call-overload]
        for split, number in (("train", train_size), ("dev", 10), ("test", 10)):
            (tmp_path / f"{family}.{split}").write_text(make(rng, number), encoding="utf-8")
            data[split] = f"{family}.{split}"
        content: dict[str, object] = {
            "name": family.replace("_", "-"),
            "optimiser": {"learning_rate": 0.02},
            "limits": {"epochs": 2},
            **_FAMILIES[family],
            "data": data,
        }
        for key, value in changes.items():
            before = content.get(key)
            content[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
        path = tmp_path / f"{family}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def console() -> Console:
    """A console that is no terminal; `console.file.getvalue()` has what was said."""
    return Console(file=StringIO(), width=200)
