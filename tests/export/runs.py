"""Training runs that take a second: one of each family, on data made up here."""

import random
from io import StringIO
from pathlib import Path
from typing import Final

from rich.console import Console

from models.training.fit import fit

CONFIGS: Final = {
    "tagger": """
        data: {format: columns, train: train.txt, dev: dev.txt, bio: false}
        model: {family: tagger, cell: CELL, word_dim: 8, character_dim: 6, character_hidden: 5, hidden: 9, crf: CRF}
        evaluation: {best: accuracy}
    """,
    "encoder_decoder": """
        data: {format: parallel_tsv, train: train.txt, dev: dev.txt}
        tokenizers: {source: {kind: characters}, target: {kind: whitespace}}
        model: {family: encoder_decoder, cell: CELL, source_dim: 8, target_dim: 6, hidden: 12, attention_dim: 7}
        evaluation: {best: loss, max_tokens: 12}
    """,
    "language_model": """
        data: {format: text, train: train.txt, dev: dev.txt}
        tokenizers: {tokens: {kind: characters}}
        model: {family: language_model, cell: CELL, dim: 10, hidden: 14}
        batch: {tracks: 2, chunk: 10}
        evaluation: {best: perplexity, tracks: 2}
    """,
}


def train(folder: Path, family: str, cell: str = "lstm", crf: bool = False, steps: int = 3) -> Path:
    """Train a tiny model for a few steps; give its run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(1)
    for split, count in (("train", 60), ("dev", 20)):
        (folder / f"{split}.txt").write_text(_examples(family, draw, count), encoding="utf-8")
    text = CONFIGS[family].replace("CELL", cell).replace("CRF", str(crf).lower())
    config = folder / "config.yaml"
    limits = f"        limits: {{steps: {steps}}}\n        optimiser: {{learning_rate: 0.02}}\n"
    lines = f"        name: tiny-{family.replace('_', '-')}{text.rstrip()}\n{limits}"
    config.write_text("\n".join(line[8:] for line in lines.splitlines()) + "\n", encoding="utf-8")
    return fit(config, folder / "run", console=Console(file=StringIO()))


def _examples(family: str, draw: random.Random, count: int) -> str:
    words = ["".join(draw.choices("abcdef", k=draw.randint(1, 9))) for _ in range(count)]
    if family == "tagger":
        sentences = [draw.choices(words, k=draw.randint(1, 8)) for _ in range(count)]
        return "\n".join("".join(f"{word}\t{word[0].upper()}\n" for word in sentence) for sentence in sentences)
    if family == "encoder_decoder":
        return "".join(f"{word}\t{' '.join(word.upper())}\n" for word in words)
    return "".join(f"{word} {word}\n" for word in words)
