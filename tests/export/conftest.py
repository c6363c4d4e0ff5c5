"""A bundle small enough to write by hand: what it holds is no model, but it is whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.bundle import hash_files, write_manifest
from export.manifest import GraphSpec, Manifest, TokenizerSpec
from models.vocabulary import Vocabulary

MakeBundle = Callable[[Path, str, int], Path]


@pytest.fixture
def make_bundle() -> MakeBundle:
    """Give a function that writes the tagger bundle `name`, `version` into a repository and returns its folder."""

    def make(repository: Path, name: str, version: int) -> Path:
        folder = repository / name / str(version)
        (folder / "vocabulary").mkdir(parents=True)
        (folder / "sequence.onnx").write_bytes(b"not read by the bundle")
        Vocabulary.build({"a": 2, "b": 1}).save(folder / "vocabulary" / "words.json")
        Vocabulary(("X", "Y"), 0).save(folder / "vocabulary" / "tags.json")
        np.savez(
            folder / "crf.npz",
            start=np.zeros(2, np.float32),
            end=np.ones(2, np.float32),
            transitions=np.arange(4, dtype=np.float32).reshape(2, 2),
        )
        words = TokenizerSpec(kind="none", vocabulary="vocabulary/words.json", lowercase=True)
        manifest = Manifest(
            name=name,
            version=version,
            task="tagger",
            precision="fp32",
            graphs={"sequence": GraphSpec(file="sequence.onnx", inputs=(), outputs=())},
            tokenizers={
                "words": words,
                "characters": TokenizerSpec(kind="characters", vocabulary="vocabulary/words.json"),
                "tags": TokenizerSpec(kind="none", vocabulary="vocabulary/tags.json"),
            },
            crf_file="crf.npz",
            created="2026-01-01T00:00:00+00:00",
            files=hash_files(folder),
        )
        write_manifest(folder, manifest)
        return folder

    return make
