import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.bundle import (
    BundleError,
    BundlePath,
    hash_files,
    list_versions,
    load_crf,
    load_manifest,
    load_tokenizers,
    write_manifest,
)
from export.manifest import variants, with_variant

MakeBundle = Callable[[Path, str, int], Path]
Content = dict[str, Any]


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: MakeBundle) -> Path:
    return make_bundle(tmp_path / "repository", "tags", 3)


def edit(folder: Path, change: Callable[[Content], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def rehash(folder: Path) -> None:
    files = {name: entry.model_dump() for name, entry in hash_files(folder).items()}
    edit(folder, lambda content: content.update(files=files))


def test_a_whole_bundle_loads(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert (manifest.name, manifest.version) == ("tags", 3)
    assert set(manifest.files) == {"sequence.onnx", "crf.npz", "vocabulary/words.json", "vocabulary/tags.json"}


def test_what_is_written_is_what_is_read(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    changed = manifest.model_copy(update={"metrics": {"dev/accuracy": 0.5}, "data": {"files": ["ä"]}})
    write_manifest(bundle, changed)
    assert load_manifest(bundle) == changed


def test_a_relative_folder_is_compared_by_its_full_name(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    assert load_manifest(Path()).version == 3


def same_size(folder: Path) -> None:
    (folder / "sequence.onnx").write_bytes(b"NOT read by the bundle")


def longer(folder: Path) -> None:
    (folder / "sequence.onnx").write_bytes(b"not read by the bundle!")


def linked_out(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.write_bytes((folder / "sequence.onnx").read_bytes())
    (folder / "sequence.onnx").unlink()
    (folder / "sequence.onnx").symlink_to(outside)


def folder_for_file(folder: Path) -> None:
    (folder / "sequence.onnx").unlink()
    (folder / "sequence.onnx").mkdir()


def fifo_for_file(folder: Path) -> None:
    (folder / "sequence.onnx").unlink()
    os.mkfifo(folder / "sequence.onnx")
    edit(folder, lambda content: content["files"]["sequence.onnx"].update(num_bytes=0))


def fifo_for_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def folder_for_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (same_size, "SHA-256: expected"),
        (longer, "size: expected 22 bytes, got 23"),
        (lambda folder: (folder / "crf.npz").unlink(), "crf.npz: expected a file of .* bytes, got no file"),
        (lambda folder: (folder / "manifest.json").unlink(), "expected a manifest, got no file"),
        (lambda folder: (folder / "manifest.json").write_text('{"schema_version": 1'), "expected a JSON manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "expected a JSON manifest"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff{}"), "expected a JSON manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "expected a JSON object, got list"),
        (lambda folder: folder.rename(folder.parent / "4"), "got no file"),
        (linked_out, "got a link out of it"),
        (folder_for_file, "sequence.onnx: expected a regular file, got a folder"),
        (fifo_for_file, "sequence.onnx: expected a regular file, got a FIFO"),
        (fifo_for_manifest, "manifest.json: expected a regular file, got a FIFO"),
        (folder_for_manifest, "manifest.json: expected a regular file, got a folder"),
    ],
)
def test_a_damaged_bundle_is_refused(bundle: Path, damage: Callable[[Path], object], message: str) -> None:
    load_manifest(bundle)
    damage(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        load_manifest(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema_version=2, novelty=1), "unknown schema version: expected 1, got 2"),
        (lambda c: c.update(schema_version="1"), "unknown schema version: expected 1, got '1'"),
        (lambda c: c.update(schema_version=True), "unknown schema version: expected 1, got True"),
        (lambda c: c.pop("schema_version"), "unknown schema version: expected 1, got None"),
        (lambda c: c.update(novelty=1), "novelty: Extra inputs are not permitted, got 1"),
        (lambda c: c.update(task="poet"), "task: .*got 'poet'"),
        (lambda c: c.update(version="3"), "version: .*got '3'"),
        (lambda c: c.update(version=4), "version of the manifest: expected '3' as the folder, got '4'"),
        (lambda c: c.update(name="other"), "name of the manifest: expected 'tags' as the folder, got 'other'"),
        (lambda c: c["files"].pop("sequence.onnx"), "graphs.sequence.file: expected a path listed in files"),
        (lambda c: c["files"].pop("vocabulary/tags.json"), "tokenizers.tags.vocabulary: expected a path listed"),
        (lambda c: c["files"].pop("crf.npz"), "crf_file: expected a path listed"),
        (lambda c: c["tokenizers"].pop("tags"), "tokenizers: expected 'tags' for task tagger"),
        (lambda c: c.update(task="language_model"), "graphs: expected 'step' for task language_model"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(bundle: Path, change: Callable[[Content], object], message: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=message) as caught:
        load_manifest(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "../2/secret",
        "vocabulary/../../2/secret",
        "/etc/hostname",
        "./sequence.onnx",
        "a//b",
        "",
        ".",
        "a\\b",
        "c:d",
        "a\0b",
    ],
)
def test_a_path_that_is_not_plain_is_refused(bundle: Path, path: str) -> None:
    secret = bundle.parent / "2" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    edit(bundle, lambda content: content["files"].update({path: {"sha256": empty, "num_bytes": 0}}))
    with pytest.raises(BundleError, match="expected a plain path inside the bundle"):
        load_manifest(bundle)


def test_a_path_too_long_for_the_system_is_a_clear_error(bundle: Path) -> None:
    edit(bundle, lambda content: content["files"].update({"x" * 5000: {"sha256": "", "num_bytes": 0}}))
    with pytest.raises(BundleError, match="expected a readable file"):
        load_manifest(bundle)


def test_any_single_changed_byte_of_any_file_is_noticed(bundle: Path) -> None:
    for name in load_manifest(bundle).files:
        path = bundle / name
        good = path.read_bytes()
        for position in range(0, len(good), max(1, len(good) // 16)):
            path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            with pytest.raises(BundleError, match="SHA-256"):
                load_manifest(bundle)
        path.write_bytes(good)
    load_manifest(bundle)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_for_a_manifest_is_a_bundle_error(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    folder = tmp_path_factory.mktemp("repository") / "tags" / "1"
    folder.mkdir(parents=True)
    merged = {"schema_version": 1, **content} if isinstance(content, dict) else content
    (folder / "manifest.json").write_text(json.dumps(merged), encoding="utf-8")
    with pytest.raises(BundleError):
        load_manifest(folder)


def test_versions_are_listed_by_number_and_then_folders_that_are_none(tmp_path: Path) -> None:
    for name in (
        "b/10",
        "b/9",
        "a/1",
        "a/.tmp-7",
        ".export-x/a/1",
        "a/01",
        "a/0",
        "a/latest",
        "Upper/1",
        "a/1234567890",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "notes").write_text("not a model")
    (tmp_path / "a" / "5").write_text("not a version")
    assert list_versions(tmp_path) == [
        BundlePath("a", 1, tmp_path / "a" / "1"),
        *(BundlePath("a", 0, tmp_path / "a" / name) for name in ("0", "01", "1234567890", "latest")),
        BundlePath("b", 9, tmp_path / "b" / "9"),
        BundlePath("b", 10, tmp_path / "b" / "10"),
    ]


@pytest.mark.parametrize("name", ["0", "01", "v1", "1234567890", "²"])
def test_a_folder_that_is_no_version_is_refused_by_name(bundle: Path, name: str) -> None:
    folder = bundle.rename(bundle.parent / name)
    (found,) = list_versions(folder.parents[1])
    assert found == BundlePath("tags", 0, folder)
    with pytest.raises(BundleError, match=f"version: expected a folder called 1, 2, 3 and so on, got '{name}'"):
        load_manifest(found.folder)


def test_a_model_that_cannot_be_read_is_refused_and_the_others_are_listed(
    tmp_path: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, whole = make_bundle(tmp_path, "closed", 1).parent, make_bundle(tmp_path, "open", 1)
    listdir = os.listdir

    def refuse(path: Path) -> list[str]:  # in place of chmod, which does not bind root
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert list_versions(tmp_path) == [BundlePath("closed", 0, closed), BundlePath("open", 1, whole)]
    with pytest.raises(BundleError, match="closed: expected a readable folder, got Permission denied"):
        load_manifest(closed)
    monkeypatch.setattr(os, "listdir", lambda path: refuse(closed))
    with pytest.raises(BundleError, match=r"repository .*: expected a readable folder, got Permission denied"):
        list_versions(tmp_path)


def test_a_repository_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a folder, got nothing there"):
        list_versions(tmp_path / "nowhere")


def test_tokenizers_come_by_role(bundle: Path) -> None:
    tokenizers = load_tokenizers(bundle, load_manifest(bundle))
    assert set(tokenizers) == {"words", "characters", "tags"}
    assert tokenizers["words"].lowercase and not tokenizers["characters"].lowercase
    assert tokenizers["characters"].encode("ba?") == [5, 4, 1]
    assert tokenizers["tags"].vocabulary.tokens == ("X", "Y")


@pytest.mark.parametrize(
    "text", ["{}", "nonsense", '{"num_special": 0, "tokens": ["a", "a"]}', '{"num_special": 0, "tokens": 3}']
)
def test_a_vocabulary_that_is_none_is_refused(bundle: Path, text: str) -> None:
    (bundle / "vocabulary" / "tags.json").write_text(text)
    rehash(bundle)
    with pytest.raises(BundleError, match="tokenizer 'tags': expected a readable vocabulary"):
        load_tokenizers(bundle, load_manifest(bundle))


def test_crf_scores_are_read(bundle: Path) -> None:
    crf = load_crf(bundle, load_manifest(bundle))
    assert crf is not None
    assert crf.end.tolist() == [1, 1] and crf.transitions.tolist() == [[0, 1], [2, 3]]


class Payload:
    """Shows by a file that unpickling it ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o777)


@pytest.mark.parametrize("kind", ["object array", "pickle", "text", "wrong shape", "float64"])
def test_crf_scores_of_another_kind_are_refused_and_never_unpickled(bundle: Path, kind: str) -> None:
    path, trap = bundle / "crf.npz", bundle / "ran"
    three, square = np.zeros(3, np.float32), np.zeros((3, 3), np.float32)
    if kind == "object array":
        np.savez(path, start=np.array([Payload(trap)], dtype=object), end=three, transitions=square)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(trap)))
    elif kind == "text":
        path.write_text("PK\x03\x04 but not really")
    elif kind == "wrong shape":
        np.savez(path, start=three, end=np.zeros(2, np.float32), transitions=square)
    else:
        np.savez(path, start=three.astype(np.float64), end=three, transitions=square)
    rehash(bundle)
    with pytest.raises(BundleError, match=r"crf\.npz: expected"):
        load_crf(bundle, load_manifest(bundle))
    assert not trap.exists()


def with_graphs(folder: Path, **variants: dict[str, str]) -> None:
    """Give the bundle graphs of these kinds with these variants, each file of which exists."""

    def change(content: Content) -> None:
        for kind, files in variants.items():
            content["graphs"][kind] = {**content["graphs"]["sequence"], "variants": files}

    for files in variants.values():
        for file in files.values():
            (folder / file).write_bytes(b"not read by the bundle")
    edit(folder, change)
    rehash(folder)


def test_variants_are_files_of_the_bundle_and_the_same_ones_of_every_graph(bundle: Path) -> None:
    with_graphs(bundle, step={"folded": "a", "primitive": "b"}, chunk={"primitive": "c", "folded": "d"})
    manifest = load_manifest(bundle)
    assert variants(manifest) == ("folded", "primitive")
    run = with_variant(manifest, "primitive")
    assert {kind: graph.file for kind, graph in run.graphs.items()} == {
        "sequence": "sequence.onnx",
        "step": "b",
        "chunk": "c",
    }


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        (
            {"step": {"folded": "a"}, "chunk": {"primitive": "b"}},
            "expected the same variants of all that have any, got",
        ),
        ({"step": {"folded": "a"}, "chunk": {}}, "expected variants of chunk as of .'step'., got none"),
    ],
)
def test_variants_that_would_part_a_chunk_from_its_steps_are_refused(
    graphs: dict[str, dict[str, str]], message: str, bundle: Path
) -> None:
    with_graphs(bundle, **graphs)
    with pytest.raises(BundleError, match=message):
        load_manifest(bundle)


def test_a_variant_that_is_no_file_of_the_bundle_or_unknown_is_refused(bundle: Path) -> None:
    with_graphs(bundle, step={"folded": "a"})
    (bundle / "a").unlink()
    rehash(bundle)
    with pytest.raises(BundleError, match=r"graphs\.step\.variants\.folded: expected a path listed in files, got 'a'"):
        load_manifest(bundle)
    edit(bundle, lambda content: content["graphs"]["step"].update(variants={"fastest": "sequence.onnx"}))
    with pytest.raises(BundleError, match=r"manifest\.json: graphs\.step\.variants\.fastest"):
        load_manifest(bundle)


def test_a_graph_without_variants_is_written_and_read_as_it_was_before_there_were_any(bundle: Path) -> None:
    """Services of then refuse fields that they do not know."""
    manifest = load_manifest(bundle)
    graph = manifest.graphs["sequence"]
    write_manifest(bundle, manifest)
    assert load_manifest(bundle) == manifest and variants(manifest) == ()
    plain = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["graphs"]["sequence"]
    assert set(plain) == {"file", "inputs", "outputs"}
    varied = graph.model_copy(update={"variants": {"primitive": "sequence.primitive.onnx"}})
    write_manifest(bundle, manifest.model_copy(update={"graphs": {"sequence": varied}}))
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["graphs"]["sequence"]
    assert content == {**plain, "variants": {"primitive": "sequence.primitive.onnx"}}
