"""A repository of tiny bundles, some of them broken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from export.bundle import BundleError, hash_files, write_manifest
from export.manifest import MANIFEST_FILE, DecodingDefaults, Manifest
from models.symbols import BOS, EOS, PAD, UNK
from models.vocabulary import Vocabulary
from service.measuring import profile
from service.measuring.profile import HostProfile
from service.repository import RefusedBundle, ServedModel, list_models, open_bundle
from service.runtime.errors import ProviderUnavailable
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import Runner, RunnerConfig
from tests.service import tiny_models as tiny
from tests.service.tensor_models import write_accumulator, write_meeting, write_narrow

CONFIG = RunnerConfig("cpu", 1, 16, 32)
WORDS = Vocabulary((PAD, UNK, BOS, EOS, "a", "b", "c"), 4)
Write = Callable[[Path, npt.NDArray[np.float32]], Manifest]


def add_bundle(
    repository: Path,
    name: str,
    version: int,
    write: Write = tiny.write_encoder_decoder,
    words: Vocabulary = WORDS,
    **changes: object,
) -> Path:
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    manifest = write(folder, tiny.make_table())
    for spec in manifest.tokenizers.values():
        words.save(folder / spec.vocabulary)
    if manifest.task == "tagger":
        zeros, square = np.zeros(7, dtype=np.float32), np.zeros((7, 7), dtype=np.float32)
        np.savez(folder / "crf.npz", start=zeros, end=zeros + 1, transitions=square)
        changes["crf_file"] = "crf.npz"
    changes |= {"name": name, "version": version, "files": hash_files(folder)}
    write_manifest(folder, manifest.model_copy(update=changes))
    return folder


def open_all(repository: Path) -> dict[tuple[str, int], ServedModel | RefusedBundle]:
    paths = [path for versions in list_models(repository).values() for path in versions]
    return {(path.name, path.version): open_bundle(path, CONFIG) for path in paths}


def opened(repository: Path, name: str = "g2p", version: int = 1) -> ServedModel:
    model = open_all(repository)[name, version]
    assert isinstance(model, ServedModel)
    return model


def refused(repository: Path) -> list[RefusedBundle]:
    return [one for one in open_all(repository).values() if isinstance(one, RefusedBundle)]


def rehash(folder: Path) -> None:
    content = json.loads((folder / MANIFEST_FILE).read_text())
    content["files"] = {name: entry.model_dump() for name, entry in hash_files(folder).items()}
    (folder / MANIFEST_FILE).write_text(json.dumps(content))


def test_models_are_listed_with_the_newest_version_first(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        (tmp_path / "g2p" / str(version)).mkdir(parents=True)
    (tmp_path / "a" / "1").mkdir(parents=True)
    found = {name: [path.version for path in paths] for name, paths in list_models(tmp_path).items()}
    assert list(found.items()) == [("a", [1]), ("g2p", [10, 9, 2])]


def test_a_bundle_is_opened_with_all_that_it_holds(tmp_path: Path) -> None:
    add_bundle(tmp_path, "g2p", 10)
    add_bundle(tmp_path, "tags", 1, tiny.write_tagger)
    g2p, tags = opened(tmp_path, "g2p", 10), opened(tmp_path, "tags")
    assert (g2p.manifest.version, g2p.tokenizers["target"].vocabulary, g2p.crf) == (10, WORDS, None)
    assert tags.crf is not None and tags.crf.end.tolist() == [1.0] * 7
    feeds = {"source": np.array([[4]]), "lengths": np.array([1]), "source_rows": np.array([[8]])}
    g2p.runner.run("encode", feeds | {"write_slots": np.array([2])}, ())
    assert g2p.runner.read_pool("hash_pool")[2] == 4


def test_broken_bundles_are_refused_with_one_line(tmp_path: Path) -> None:
    add_bundle(tmp_path, "g2p", 1)
    bit_flipped = add_bundle(tmp_path, "g2p", 2) / "step.onnx"
    content = bytearray(bit_flipped.read_bytes())
    content[100] ^= 1
    bit_flipped.write_bytes(content)
    not_onnx = add_bundle(tmp_path, "g2p", 3)
    (not_onnx / "step.onnx").write_bytes(b"not a model\nat all")
    rehash(not_onnx)
    (add_bundle(tmp_path, "g2p", 4) / MANIFEST_FILE).write_text("{")
    swapped = add_bundle(tmp_path, "g2p", 5)
    shutil.copy(swapped / "encode.onnx", swapped / "step.onnx")
    rehash(swapped)
    (add_bundle(tmp_path, "lost", 1) / "encode.onnx").unlink()
    add_bundle(tmp_path, "tags", 1, tiny.write_tagger)
    found = open_all(tmp_path)
    assert {key for key, one in found.items() if isinstance(one, ServedModel)} == {("g2p", 1), ("tags", 1)}
    refusals = sorted(refused(tmp_path), key=lambda refusal: (refusal.name, refusal.version))
    assert [(one.name, one.version) for one in refusals] == [
        ("g2p", 2),
        ("g2p", 3),
        ("g2p", 4),
        ("g2p", 5),
        ("lost", 1),
    ]
    assert [one.kind for one in refusals] == ["bundle", "graphs", "bundle", "graphs", "bundle"]
    reasons = [refusal.reason for refusal in refusals]
    assert all(reason and "\n" not in reason for reason in reasons)
    for reason, expected in zip(reasons, ["SHA-256", "", "JSON", "step.onnx: inputs", "no file"], strict=True):
        assert expected in reason


@pytest.mark.parametrize(
    ("words", "decoding", "reason"),
    [
        (Vocabulary((PAD, UNK, EOS, BOS, "a", "b", "c"), 4), {}, "<s>: expected id 2, got 3"),
        (Vocabulary((PAD, UNK, BOS, "a", "b", "c", "d"), 3), {}, "</s>: expected id 3, got None"),
        (WORDS, {"max_beam_size": 4}, "expected 7 to 7 a row for a beam of 4 and the target vocabulary, got 6"),
        (Vocabulary((PAD, UNK, BOS, EOS, "a"), 4), {}, "expected 5 to 5 a row for a beam of 3"),
    ],
)
def test_bundles_that_the_engine_could_not_search_are_refused(
    tmp_path: Path, words: Vocabulary, decoding: dict[str, int], reason: str
) -> None:
    defaults = DecodingDefaults(top_k=tiny.TOP_K, **({"max_beam_size": 3} | decoding))
    add_bundle(tmp_path, "g2p", 1, words=words, decoding=defaults)
    [refusal] = refused(tmp_path)
    assert isinstance(refusal, RefusedBundle) and reason in refusal.reason


def test_closing_the_runner_ends_the_measuring(tmp_path: Path) -> None:
    add_bundle(tmp_path, "g2p", 1)
    [path] = list_models(tmp_path)["g2p"]
    closed = []

    def close(runner: Runner) -> None:
        runner.close()
        closed.append(runner)

    refusal = open_bundle(path, CONFIG, close)
    assert isinstance(refusal, RefusedBundle) and refusal.kind == "graphs"
    assert len(closed) == 1


def test_what_a_model_costs_and_whether_company_changes_its_answers_is_known_when_it_opens(tmp_path: Path) -> None:
    add_bundle(tmp_path, "g2p", 1)
    add_bundle(tmp_path, "tags", 1, tiny.write_tagger)
    models = [opened(tmp_path), opened(tmp_path, "tags")]
    assert all(model.profile.max_rows >= 1 for model in models)
    assert models[1].variances == ()


def tensors(write: Callable[..., Manifest], *args: int) -> Write:
    def write_both(folder: Path, table: npt.NDArray[np.float32]) -> Manifest:
        manifest = write(folder, *args)
        shutil.copy(folder / "step.onnx", folder / "original.onnx")
        return manifest

    return write_both


def test_rows_that_meet_are_run_one_at_a_time_and_it_is_said(tmp_path: Path) -> None:
    add_bundle(tmp_path, "alone", 1, tensors(write_meeting))
    add_bundle(tmp_path, "apart", 1, tensors(write_accumulator))
    model = opened(tmp_path, "alone")
    assert model.manifest.imported is not None and model.manifest.imported.max_rows == 1
    assert model.runner.manifest is model.manifest and model.bundle.imported != model.manifest.imported
    [warning] = model.warnings
    assert warning.startswith(
        "runs at most 1 row at a time, as rows influence each other (step: state:total differs in"
    )
    assert model.variances == ()  # of how it is run
    other = opened(tmp_path, "apart")
    assert (other.bundle, other.warnings, other.variances) == (other.manifest, (), ())


def test_more_rows_than_a_model_can_be_run_on_are_not_run_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the machine is at, enough sizes are timed for one to fail.
    monkeypatch.setattr(profile, "_BUDGET_S", 1e6)
    monkeypatch.setattr(profile, "_KNEE", 0.0)
    add_bundle(tmp_path, "narrow", 1, tensors(write_narrow, 11))
    for _ in range(2):  # measured, and as it was kept
        model = opened(tmp_path, "narrow")
        assert model.manifest.imported is not None and model.manifest.imported.max_rows == 11
        assert model.warnings == ("runs at most 11 rows at a time, as runs of more fail",)
        assert model.profile.most_rows == 11 and max(model.profile.step_seconds) <= 11
        assert model.bundle.imported is not None and model.bundle.imported.max_rows is None


def test_a_model_that_cannot_be_run_at_all_is_refused_for_what_a_single_row_gives(tmp_path: Path) -> None:
    add_bundle(tmp_path, "never", 1, tensors(write_narrow, 0))
    [refusal] = refused(tmp_path)
    assert refusal.kind == "graphs" and "ScatterND" in refusal.reason


def write_scoring_language_model(folder: Path, table: npt.NDArray[np.float32]) -> Manifest:
    manifest, tagger = tiny.write_language_model(folder, table), tiny.write_tagger(folder, table)
    return manifest.model_copy(update={"graphs": {**manifest.graphs, **tagger.graphs}})


@pytest.mark.parametrize("words", [("a", "b"), ("a", "b", "c", "d")])
@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_scoring_language_model, "vocabulary of tokens: expected 7 entries as log_probs has, got {}"),
        (tiny.write_tagger, "vocabulary of tags: expected 7 entries as emissions has, got {}"),
    ],
)
def test_a_vocabulary_that_is_not_the_graphs_is_refused(
    tmp_path: Path, write: Write, words: tuple[str, ...], reason: str
) -> None:
    vocabulary = Vocabulary((PAD, UNK, BOS, EOS, *words), 4)
    add_bundle(tmp_path, "other", 1, write, vocabulary)
    [refusal] = refused(tmp_path)
    assert reason.format(len(vocabulary)) in refusal.reason


def test_crf_scores_of_other_tags_are_refused(tmp_path: Path) -> None:
    folder = add_bundle(tmp_path, "tags", 1, tiny.write_tagger)
    few, square = np.zeros(6, dtype=np.float32), np.zeros((6, 6), dtype=np.float32)
    np.savez(folder / "crf.npz", start=few, end=few, transitions=square)
    rehash(folder)
    [refusal] = refused(tmp_path)
    assert "CRF: expected scores of 7 tags, got 6" in refusal.reason


def test_an_empty_repository_has_no_models_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    assert list_models(tmp_path) == {}
    with pytest.raises(BundleError, match="expected a folder, got nothing there"):
        list_models(tmp_path / "nowhere")


@pytest.mark.parametrize(("provider", "tf32", "coarse"), [(CUDA, True, True), (CUDA, False, False), (CPU, True, False)])
def test_roundings_to_tf32_are_expected_of_a_gpu_that_makes_them(
    tmp_path: Path, provider: str, tf32: bool, coarse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []

    def note(runner: Runner, sizes: object, num_ids: object, tf32: bool) -> tuple[()]:
        found.append(tf32)
        return ()

    def measure(*_: object) -> HostProfile:
        return HostProfile(host="", measured_at="")

    monkeypatch.setattr("service.repository.probe_company", note)
    monkeypatch.setattr("service.repository.load_or_measure", measure)
    add_bundle(tmp_path, "g2p", 1)

    def opened(runner: Runner) -> None:
        runner.provider = provider

    model = open_bundle(list_models(tmp_path)["g2p"][0], RunnerConfig("cpu", 1, 16, 32, tf32), opened)
    assert isinstance(model, ServedModel) and found == [coarse]


def test_cuda_that_is_insisted_on_and_missing_is_nobodys_bundles_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    add_bundle(tmp_path, "g2p", 1)
    with pytest.raises(ProviderUnavailable):
        open_bundle(list_models(tmp_path)["g2p"][0], RunnerConfig("cuda", 1, 16, 32))
