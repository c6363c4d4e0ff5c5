"""`carryover models --repository`: every version, and what is wrong with the broken ones."""

from pathlib import Path

import pytest

from carryover.cli.app import run
from export.bundle import hash_files, write_manifest
from export.manifest import GraphSpec, Manifest, TokenizerSpec
from models.vocabulary import Vocabulary


def publish(repository: Path, version: int) -> Path:
    """Lay down a language model's bundle whose graphs are never opened."""
    folder = repository / "lm" / str(version)
    folder.mkdir(parents=True)
    Vocabulary.build({"a": 1}).save(folder / "tokens.json")
    for kind in ("sequence", "step"):
        (folder / f"{kind}.onnx").write_bytes(kind.encode() * 100)
    manifest = Manifest(
        name="lm",
        version=version,
        task="language_model",
        precision="fp32",
        graphs={
            "sequence": GraphSpec(file="sequence.onnx", inputs=(), outputs=()),
            "step": GraphSpec(file="step.onnx", inputs=(), outputs=()),
        },
        tokenizers={"tokens": TokenizerSpec(kind="characters", vocabulary="tokens.json")},
        metrics={"dev/perplexity": 12.5, "baseline/dev/perplexity": 99.5},
        created="2026-01-01T00:00:00Z",
        files=hash_files(folder),
    )
    write_manifest(folder, manifest)
    return folder


def test_every_version_is_listed_with_its_own_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    assert run(["models", "--repository", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "baseline" not in said
    rows = [line.split() for line in said.splitlines()[1:]]
    assert [row[:4] for row in rows] == [["lm", v, "language_model", "fp32"] for v in ("1", "2")]
    assert all(row[-2:] == ["dev/perplexity", "12.5"] for row in rows)


def test_a_broken_bundle_is_refused_and_the_others_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, 1)
    (publish(tmp_path, 2) / "step.onnx").write_bytes(b"else" * 100)
    assert run(["models", "--repository", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\nlm" in said
    (refused,) = [line for line in said.splitlines() if line.startswith("refused: lm 2: ")]
    assert "step.onnx" in refused


def test_an_empty_repository_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--repository", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no models\n"
