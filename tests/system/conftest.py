"""A tiny model that the command itself trained and exported, once for all tests of the whole."""

import itertools
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PHONEMES = {"a": "AA", "b": "B", "d": "D", "e": "EH", "g": "G", "i": "IY", "k": "K", "m": "M", "o": "OW", "t": "T"}
CONFIG = """
name: spell
seed: 1
data: {format: cmudict, file: words.dict, dev: 40, test: 40}
tokenizers:
  source: {kind: characters}
  target: {kind: whitespace}
model:
  {family: encoder_decoder, cell: gru, source_dim: 16, target_dim: 16, hidden: 32, attention_dim: 16, dropout: 0.0}
optimiser: {name: adam, learning_rate: 0.01}
batch: {max_tokens: 600}
limits: {steps: 150}
evaluation: {best: wer, every_steps: 50, max_tokens: 12}
"""


def carryover(*arguments: str, cwd: Path, timeout_s: float = 100) -> "subprocess.CompletedProcess[str]":
    """Run the command as a person would, from a folder of choice."""
    command = [sys.executable, "-m", "carryover", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)


@dataclass(frozen=True)
class Home:
    """A folder with a lexicon and a config in it, as a user's would be.

    Args:
        folder: Holds `words.dict` and `spell.yaml`.
        pronunciations: Of every word of the lexicon.
    """

    folder: Path
    pronunciations: dict[str, str]


def lay_out(folder: Path) -> Home:
    """Write a lexicon in which each letter always stands for the same phoneme, and a config to learn it."""
    words = ["".join(letters) for length in (2, 3) for letters in itertools.product(PHONEMES, repeat=length)]
    chosen = random.Random(1).sample(words, 400)
    pronunciations = {word: " ".join(PHONEMES[letter] for letter in word) for word in chosen}
    lines = [f"{word} {phonemes}\n" for word, phonemes in pronunciations.items()]
    (folder / "words.dict").write_text("".join(lines), encoding="utf-8")
    (folder / "spell.yaml").write_text(CONFIG, encoding="utf-8")
    return Home(folder, pronunciations)


@pytest.fixture(scope="session")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Train and export the model `spell`: `runs/spell` and `repository/spell/1` under the folder."""
    home = lay_out(tmp_path_factory.mktemp("spelling"))
    for arguments in (("train", "spell.yaml"), ("export", "runs/spell", "--repository", "repository")):
        done = carryover(*arguments, cwd=home.folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return home
