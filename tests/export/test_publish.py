import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bundle import BundleError, list_versions, load_manifest, write_manifest
from export.manifest import Manifest
from export.publish import STAGING_PREFIX, publish, staging

MakeBundle = Callable[[Path, str, int], Path]


@pytest.fixture
def finished(tmp_path: Path, make_bundle: MakeBundle) -> Path:
    """A bundle elsewhere, to copy from."""
    return make_bundle(tmp_path / "elsewhere", "tags", 1)


def fill(bundle: Path, source: Path) -> Manifest:
    for path in source.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            target = bundle / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return load_manifest(source)


def export(repository: Path, source: Path) -> Path:
    with staging(repository) as bundle:
        folder, _ = publish(bundle, repository, fill(bundle, source))
    return folder


def hidden(repository: Path) -> list[Path]:
    return [path for path in repository.iterdir() if path.name.startswith(".")]


def test_versions_count_up_and_each_is_whole(tmp_path: Path, finished: Path) -> None:
    repository = tmp_path / "new" / "repository"
    for version in (1, 2, 3):
        assert export(repository, finished) == repository / "tags" / str(version)
    (repository / "tags" / "7").mkdir()
    (repository / "tags" / "12345678901").mkdir()  # too long to be one
    assert export(repository, finished) == repository / "tags" / "8"
    assert [
        load_manifest(found.folder).version for found in list_versions(repository) if found.version not in (0, 7)
    ] == [
        1,
        2,
        3,
        8,
    ]
    assert hidden(repository) == []


def test_a_published_bundle_can_be_read_by_others(tmp_path: Path, finished: Path) -> None:
    mask = os.umask(0o022)
    try:
        folder = export(tmp_path / "repository", finished)
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "manifest.json").stat().st_mode & 0o777 == 0o644


def test_an_export_that_fails_publishes_nothing(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(RuntimeError, match="parity"), staging(tmp_path / "repository") as bundle:
        fill(bundle, finished)
        raise RuntimeError("parity")
    assert list((tmp_path / "repository").iterdir()) == []


def test_a_bundle_that_no_reader_would_take_is_not_published(tmp_path: Path, finished: Path) -> None:
    repository = tmp_path / "repository"
    with pytest.raises(BundleError, match="crf_file"), staging(repository) as bundle:
        manifest = fill(bundle, finished)
        (bundle / "crf.npz").unlink()
        publish(bundle, repository, manifest)
    assert list_versions(repository) == [] and hidden(repository) == []


def test_readers_see_nothing_before_the_rename_and_everything_is_on_disk_by_then(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, synced, seen = tmp_path / "repository", set[str](), list[int]()
    fsync, rename = os.fsync, Path.rename

    def record_sync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        if target.parent == repository / "tags":
            assert list_versions(repository) == []
            files = {str(path) for path in self.rglob("*")} | {str(self)}
            assert files - synced == set()
            seen.append(len(files))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "rename", record_rename)
    folder = export(repository, finished)
    assert seen == [len(list(folder.rglob("*"))) + 1]
    assert str(repository / "tags") in synced


def test_an_export_beaten_to_its_version_takes_the_next(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, beaten = tmp_path / "repository", list[bytes]()

    def write_late(folder: Path, manifest: Manifest) -> None:
        write_manifest(folder, manifest)
        if not beaten:  # the version is chosen, the rename not done: another export comes first
            beaten.append(b"")
            first = export(repository, finished)
            assert first.name == "1"
            beaten.append((first / "manifest.json").read_bytes())

    monkeypatch.setattr("export.publish.write_manifest", write_late)
    second = export(repository, finished)
    assert second.name == "2" and load_manifest(second).version == 2
    assert (repository / "tags" / "1" / "manifest.json").read_bytes() == beaten[1]


EXPORTER = """
    import sys
    from pathlib import Path
    from export.bundle import load_manifest
    from export.publish import publish, staging
    repository, source, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for _ in range(count):
        with staging(repository) as bundle:
            for path in source.rglob("*"):
                if path.is_file():
                    (bundle / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                    (bundle / path.relative_to(source)).write_bytes(path.read_bytes())
            if count == 1:
                print(bundle.parent.name, flush=True)
                sys.stdin.read()
            publish(bundle, repository, load_manifest(source))
"""


def start(repository: Path, source: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(EXPORTER), str(repository), str(source), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.slow
def test_exports_side_by_side_neither_clash_nor_overwrite(tmp_path: Path, finished: Path) -> None:
    repository = tmp_path / "repository"
    exporters = [start(repository, finished, 10) for _ in range(3)]
    assert [exporter.wait(timeout=60) for exporter in exporters] == [0, 0, 0]
    found = list_versions(repository)
    assert [version.version for version in found] == list(range(1, 31))
    assert [load_manifest(version.folder).version for version in found] == list(range(1, 31))
    assert hidden(repository) == []


@pytest.mark.slow
def test_what_a_killed_export_left_is_ignored_then_cleaned_and_a_running_one_is_let_be(
    tmp_path: Path, finished: Path
) -> None:
    repository = tmp_path / "repository"
    killed, running = start(repository, finished, 1), start(repository, finished, 1)
    assert killed.stdout is not None and running.stdout is not None
    folders = [killed.stdout.readline().strip(), running.stdout.readline().strip()]
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=10)
    assert {path.name for path in hidden(repository)} == set(folders)
    assert all(name.startswith(STAGING_PREFIX) for name in folders)
    assert list_versions(repository) == []

    assert export(repository, finished).name == "1"
    assert [path.name for path in hidden(repository)] == folders[1:]

    running.communicate(timeout=10)
    assert running.returncode == 0
    assert [found.version for found in list_versions(repository)] == [1, 2]
    assert hidden(repository) == []


def test_a_repository_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="expected a folder that can be written"), staging(tmp_path / "file"):
        pass


def test_a_model_is_not_followed_by_one_of_another_kind(tmp_path: Path, finished: Path) -> None:
    repository = tmp_path / "repository"
    first = export(repository, finished)
    manifest = first / "manifest.json"
    task = load_manifest(first).task
    manifest.write_text(manifest.read_text().replace(f'"task": "{task}"', '"task": "language_model"'))
    assert '"language_model"' in manifest.read_text()
    expected = f"model tags: expected a language_model as its version 1 is, got a model of {task}"
    with pytest.raises(BundleError, match=expected):
        export(repository, finished)
    assert [path.name for path in (repository / "tags").iterdir()] == ["1"]
    manifest.write_text("not a manifest")
    assert export(repository, finished).name == "2"
