"""Publish a bundle atomically: write it in a hidden folder of the repository, then rename it into place.

A reader sees a version whole or not at all, whenever the export stops. No lock is held on the repository: two exports
that pick the same version both try to rename, the file system lets one win, and the other takes the next number.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.bundle import VERSION_PATTERN, BundleError, hash_files, load_manifest, write_manifest
from export.manifest import MANIFEST_FILE, Manifest

# Hidden from `bundle.list_versions` by the dot.
STAGING_PREFIX = ".export-"


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Give an empty folder inside the repository to build a bundle in; afterwards it is gone, published or not.

    What killed exports left behind is removed first; exports that still run are not touched: each holds a lock on its
    own staging folder, which the kernel drops when the process ends, however it ends.

    Args:
        repository: Made if need be.

    Raises:
        BundleError: The repository cannot be written.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(repository)
        folder, lock = _make_staging(repository)
    except OSError as error:
        raise BundleError(f"repository {repository}: expected a folder that can be written, got {error}") from error
    try:
        bundle = folder / "bundle"
        bundle.mkdir()
        yield bundle
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def publish(bundle: Path, repository: Path, manifest: Manifest) -> tuple[Path, Manifest]:
    """Move a staged bundle into the repository as the next version of its model.

    Args:
        bundle: What `staging` gave, filled; it is moved away.
        repository: The same repository.
        manifest: Version and file table are filled in here.

    Returns:
        The folder `<repository>/<name>/<version>`, and the manifest as published.

    Raises:
        BundleError: The bundle would be refused by `load_manifest`, or the model of that name is of another kind.
            Nothing was published.
    """
    files = hash_files(bundle)
    home = repository / manifest.name
    home.mkdir(exist_ok=True)
    while True:
        taken = [int(path.name) for path in home.iterdir() if VERSION_PATTERN.fullmatch(path.name)]
        newest = max(taken, default=0)
        _require_same_task(home / str(newest), manifest)
        version = 1 + newest
        manifest = manifest.model_copy(update={"version": version, "files": files})
        # Named as it will be, so that the check before the rename is the one that readers will make.
        candidate = bundle.parent / "candidate" / manifest.name / str(version)
        candidate.parent.mkdir(parents=True, exist_ok=True)
        bundle = bundle.rename(candidate)
        write_manifest(bundle, manifest)
        load_manifest(bundle)
        _sync_tree(bundle)
        try:
            published = bundle.rename(home / str(version))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            continue  # somebody else published this version meanwhile
        _sync(home)
        _sync(repository)
        return published, manifest


def _require_same_task(newest: Path, manifest: Manifest) -> None:
    """Refuse what would take the place of a model that callers ask for something else."""
    try:
        task = json.loads((newest / MANIFEST_FILE).read_bytes())["task"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is none, or none that anybody is served
    if task != manifest.task:
        raise BundleError(
            f"model {manifest.name}: expected a {task} as its version {newest.name} is, got a model of "
            f"{manifest.task}: give this one a --name of its own"
        )


def _make_staging(repository: Path) -> tuple[Path, int]:
    """Make a staging folder and lock it; the lock is the returned file descriptor."""
    while True:
        folder = repository / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
        folder.mkdir()
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another export's cleaning may have taken the folder between mkdir and flock.
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_leftovers(repository: Path) -> None:
    for folder in repository.glob(f"{STAGING_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                pass  # its export still runs
            finally:
                os.close(lock)


def _sync_tree(folder: Path) -> None:
    """Bring every file and folder below and including `folder` to the disk, so that the rename cannot overtake them."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
