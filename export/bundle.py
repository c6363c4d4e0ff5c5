"""Bundles on disk: find them, check them, read what they hold. No torch, no onnx: the service imports this.

A repository is a folder of bundles `<name>/<version>/`. Names that begin with a dot are not bundles: that is where
exports in progress live. Other folders in a model's that are no version are listed, to be refused by name. A bundle is
believed only after `load_manifest` has checked every file against its hash.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from export.manifest import MANIFEST_FILE, NAME_PATTERN, SCHEMA_VERSION, FileEntry, Manifest, Task, storage
from models.tokenizer import Tokenizer
from models.vocabulary import VOCABULARY_ROLES

# What a task cannot be served without.
REQUIRED_GRAPHS: Final[dict[Task, tuple[str, ...]]] = {
    "tagger": ("sequence",),
    "encoder_decoder": ("encode", "step"),
    "language_model": ("sequence", "step"),
    "tensors": (),  # one of "step" and "run": see `_check_imported`
}
VERSION_PATTERN: Final = re.compile(r"[1-9][0-9]{0,8}")


class BundleError(Exception):
    """A bundle or a repository is not what it should be; one line that says where, expected and got."""


@dataclass(frozen=True, order=True)
class BundlePath:
    """Where one version of one model lies. Nothing in it has been checked.

    Args:
        name: Of the model.
        version: From 1; 0 where the folder is none, and `load_manifest` says why.
        folder: `<repository>/<name>/<version>`, or the model's own where that cannot be read.
    """

    name: str
    version: int
    folder: Path


@dataclass(frozen=True)
class Crf:
    """Scores of a linear-chain CRF over K tags, float32.

    Args:
        start: (K,) of beginning with a tag.
        end: (K,) of ending with a tag.
        transitions: (K, K), from -> to.
    """

    start: npt.NDArray[np.float32]
    end: npt.NDArray[np.float32]
    transitions: npt.NDArray[np.float32]


def list_versions(repository: Path) -> list[BundlePath]:
    """Find the bundles of a repository, by name and then version, oldest first.

    After the versions of a model come the folders in it that are none (`latest`, `01`), as version 0. Left out are
    files, what begins with a dot, and folders whose name cannot be a model's.

    Raises:
        BundleError: The repository is not a folder that can be read.
    """
    if not repository.is_dir():
        raise BundleError(f"repository {repository}: expected a folder, got {_describe(repository)}")
    try:
        models = sorted(path for path in repository.iterdir() if re.fullmatch(NAME_PATTERN, path.name))
    except OSError as error:
        raise BundleError(f"repository {repository}: expected a readable folder, got {error.strerror}") from error
    return [path for model in models for path in _list_model(model)]


def _list_model(model: Path) -> list[BundlePath]:
    """The versions of one model, then what is none; the model's folder itself where it cannot be read."""
    try:
        folders = [path for path in model.iterdir() if path.is_dir()] if model.is_dir() else []
    except OSError:
        return [BundlePath(model.name, 0, model)]
    visible = [path for path in folders if not path.name.startswith(".")]
    versions = [path for path in visible if VERSION_PATTERN.fullmatch(path.name)]
    found = sorted(BundlePath(model.name, int(path.name), path) for path in versions)
    return found + [BundlePath(model.name, 0, path) for path in sorted(set(visible) - set(versions))]


def check_name(name: str) -> None:
    """Check that a model may be called so.

    Raises:
        BundleError: It may not.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise BundleError(f"model name: expected up to 64 of a-z, 0-9 and ._- (not first), got {name!r}")


def load_manifest(folder: Path) -> Manifest:
    """Read and verify a bundle: schema, name, version, every file's presence, size and SHA-256.

    Args:
        folder: `<repository>/<name>/<version>`.

    Raises:
        BundleError: Anything is amiss.
    """
    _check_version(folder)
    content = _read_json(folder / MANIFEST_FILE)
    got = content.get("schema_version")
    if got != SCHEMA_VERSION or isinstance(got, bool):
        raise BundleError(
            f"{folder / MANIFEST_FILE}: unknown schema version: expected {SCHEMA_VERSION}, got {_shorten(got)}"
        )
    try:
        # As JSON, so that lists become tuples while numbers written as strings are refused.
        manifest = Manifest.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise BundleError(f"{folder / MANIFEST_FILE}: {_first_problem(error)}") from None
    for what, expected, found in (
        ("name", Path(os.path.abspath(folder)).parent.name, manifest.name),
        ("version", Path(os.path.abspath(folder)).name, str(manifest.version)),
    ):
        if expected != found:
            raise BundleError(f"{folder}: {what} of the manifest: expected {expected!r} as the folder, got {found!r}")
    _check_complete(folder, manifest)
    for path, entry in manifest.files.items():
        try:
            _check_file(folder, path, entry)
        except OSError as error:
            raise BundleError(f"{folder}: files: expected a readable file, got {error}") from error
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, its file table as given (see `hash_files`)."""
    text = json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, indent=2, allow_nan=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Describe every file under a folder except the manifest, by its relative path with forward slashes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {path.relative_to(folder).as_posix(): path for path in paths}
    entries.pop(MANIFEST_FILE, None)
    return {name: FileEntry(sha256=_sha256(path), num_bytes=path.stat().st_size) for name, path in entries.items()}


def load_tokenizers(folder: Path, manifest: Manifest) -> dict[str, Tokenizer]:
    """Load the tokenizers of a verified bundle, by role.

    Raises:
        BundleError: A vocabulary or tokenizer file is not one.
    """
    loaded = {}
    for role, spec in manifest.tokenizers.items():
        try:
            loaded[role] = Tokenizer.load(
                folder, spec.kind, spec.vocabulary, spec.file, lowercase=spec.lowercase, reverse=spec.reverse
            )
        except Exception as error:  # the tokenizers library raises bare Exception
            raise BundleError(f"{folder}: tokenizer {role!r}: expected a readable vocabulary, got {error}") from error
    return loaded


def load_initial_states(folder: Path, manifest: Manifest) -> dict[str, npt.NDArray[Any]]:
    """Load the initial states of a verified bundle that are not zeros, by name. Nothing pickled is read.

    Raises:
        BundleError: The file does not hold just those, each of its state's shape and type.
    """
    specs = {state.name: state for state in manifest.states if state.initial == "file"}
    if manifest.initial_states_file is None:
        if specs:
            raise BundleError(f"{folder}: initial_states_file: expected a file with {sorted(specs)}, got none")
        return {}
    path = folder / manifest.initial_states_file
    arrays = _load_arrays(path)
    expected = {name: f"{storage(spec.dtype)}{spec.shape}" for name, spec in specs.items()}
    got = {name: f"{array.dtype}{array.shape}" for name, array in arrays.items()}
    if got != expected:
        raise BundleError(f"{path}: expected {expected}, got {got}")
    return arrays


def load_crf(folder: Path, manifest: Manifest) -> Crf | None:
    """Load the CRF scores of a verified bundle; None where the model has none. Nothing pickled is read.

    Raises:
        BundleError: The file is not an npz with `start`, `end` and `transitions` of float32 and fitting shapes.
    """
    if manifest.crf_file is None:
        return None
    path = folder / manifest.crf_file
    arrays = _load_arrays(path)
    num_tags = arrays["start"].shape[0] if "start" in arrays and arrays["start"].ndim == 1 else -1
    expected = {"start": (num_tags,), "end": (num_tags,), "transitions": (num_tags, num_tags)}
    got = {name: array.shape for name, array in arrays.items()}
    if got != expected or any(array.dtype != np.float32 for array in arrays.values()):
        types = {name: f"{array.dtype}{array.shape}" for name, array in sorted(arrays.items())}
        raise BundleError(f"{path}: expected float32 start (K,), end (K,), transitions (K, K), got {types}")
    return Crf(arrays["start"], arrays["end"], arrays["transitions"])


def _load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: expected an npz file of plain arrays, got {error}") from error


def _check_version(folder: Path) -> None:
    """A folder that can be read is called as a version is."""
    name = Path(os.path.abspath(folder)).name
    if VERSION_PATTERN.fullmatch(name):
        return
    try:
        os.listdir(folder)
    except OSError as error:
        raise BundleError(f"{folder}: expected a readable folder, got {error.strerror}") from error
    raise BundleError(f"{folder}: version: expected a folder called 1, 2, 3 and so on, got {name!r}")


def _check_complete(folder: Path, manifest: Manifest) -> None:
    """Every file that the manifest uses is in its file table, and the task has what it needs."""
    for where, path in _references(manifest):
        if path not in manifest.files:
            raise BundleError(f"{folder}: {where}: expected a path listed in files, got {path!r}")
    for kind in REQUIRED_GRAPHS[manifest.task]:
        if kind not in manifest.graphs:
            raise BundleError(
                f"{folder}: graphs: expected {kind!r} for task {manifest.task}, got {sorted(manifest.graphs)}"
            )
    _check_variants(folder, manifest)
    _check_imported(folder, manifest)
    for role in VOCABULARY_ROLES[manifest.task]:
        if role not in manifest.tokenizers:
            raise BundleError(
                f"{folder}: tokenizers: expected {role!r} for task {manifest.task}, got {sorted(manifest.tokenizers)}"
            )


def _check_variants(folder: Path, manifest: Manifest) -> None:
    """Graphs that have variants have the same ones: a chunk and its steps change together."""
    found = {kind: sorted(graph.variants) for kind, graph in manifest.graphs.items() if graph.variants}
    if len({tuple(names) for names in found.values()}) > 1:
        raise BundleError(f"{folder}: graphs: expected the same variants of all that have any, got {found}")
    if found and "chunk" in manifest.graphs and "chunk" not in found:
        raise BundleError(f"{folder}: graphs: expected variants of chunk as of {sorted(found)}, got none")


def _check_imported(folder: Path, manifest: Manifest) -> None:
    """An imported model says what it is, and has one graph: `step` just if it has state."""
    if (manifest.task == "tensors") != (manifest.imported is not None):
        raise BundleError(f"{folder}: imported: expected it of task tensors and no other, got task {manifest.task}")
    if manifest.imported is None:
        return
    expected = {"step"} if manifest.states else {"run"}
    if manifest.graphs.keys() != expected or manifest.memories:
        got = sorted(manifest.graphs)
        raise BundleError(f"{folder}: graphs: expected {sorted(expected)} alone and no memories, got {got}")


def _references(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for kind, graph in manifest.graphs.items():
        yield f"graphs.{kind}.file", graph.file
        for variant, file in graph.variants.items():
            yield f"graphs.{kind}.variants.{variant}", file
    for role, tokenizer in manifest.tokenizers.items():
        yield f"tokenizers.{role}.vocabulary", tokenizer.vocabulary
        if tokenizer.file is not None:
            yield f"tokenizers.{role}.file", tokenizer.file
    if manifest.crf_file is not None:
        yield "crf_file", manifest.crf_file
    if manifest.initial_states_file is not None:
        yield "initial_states_file", manifest.initial_states_file
    if manifest.imported is not None:
        yield "imported.original", manifest.imported.original


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    """One file is inside the bundle, an ordinary file, and byte for byte what the manifest says."""
    pure = PurePosixPath(name)
    plain = pure.parts and not pure.is_absolute() and ".." not in pure.parts and pure.as_posix() == name
    if not plain or set(name) & set("\\\0:"):
        raise BundleError(f"{folder}: files: expected a plain path inside the bundle, got {name!r}")
    path = folder / name
    if not path.exists():
        raise BundleError(f"{path}: expected a file of {entry.num_bytes} bytes, got no file")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path}: expected a file inside the bundle, got a link out of it to {path.resolve()}")
    if not path.is_file():
        raise BundleError(f"{path}: expected a regular file, got {_describe(path)}")
    num_bytes = path.stat().st_size
    if num_bytes != entry.num_bytes:
        raise BundleError(f"{path}: size: expected {entry.num_bytes} bytes, got {num_bytes}")
    digest = _sha256(path)
    if digest != entry.sha256:
        raise BundleError(f"{path}: SHA-256: expected {_shorten(entry.sha256)}, got {digest}")


def _read_json(path: Path) -> dict[str, object]:
    try:
        # Asked before it is opened: opening a pipe would wait for whoever writes to it.
        if path.exists() and not path.is_file():
            raise BundleError(f"{path}: expected a regular file, got {_describe(path)}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: expected a manifest, got no file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected a JSON manifest, got {type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"])) or "manifest"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{key}: {problem['msg']}, got {_shorten(problem['input'])}{more}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(path: Path) -> str:
    for kind, holds in (
        ("a folder", path.is_dir),
        ("a file", path.is_file),
        ("a FIFO", path.is_fifo),
        ("a socket", path.is_socket),
    ):
        if holds():
            return kind
    return "something else" if path.exists() else "nothing there"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
