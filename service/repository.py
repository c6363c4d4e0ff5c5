"""Which models are served: the newest version of each that can be, and why the others cannot.

The repository is read once, at start. A broken bundle never keeps another from serving.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from export.bundle import BundleError, BundlePath, Crf, list_versions, load_crf, load_manifest, load_tokenizers
from export.manifest import Manifest
from models.symbols import BOS, BOS_ID, EOS, EOS_ID
from models.tokenizer import Tokenizer
from service.runner import ProviderUnavailable, Runner, RunnerConfig, first_line, open_runner

_log = logging.getLogger(__name__)
_GENERATING_ROLES = {"encoder_decoder": "target", "language_model": "tokens"}


@dataclass(frozen=True)
class ServedModel:
    """One bundle, opened.

    Args:
        manifest: Verified.
        tokenizers: By role.
        runner: For an engine to own.
        crf: Scores of a CRF tagger.
    """

    manifest: Manifest
    tokenizers: Mapping[str, Tokenizer]
    runner: Runner
    crf: Crf | None


@dataclass(frozen=True)
class RefusedBundle:
    """One version that was found and cannot be served; `reason` is one line."""

    name: str
    version: int
    reason: str


@dataclass(frozen=True)
class Repository:
    """What was found.

    Args:
        models: By name, the newest version that opens.
        refused: Versions newer than that, or all of a model that has none.
    """

    models: Mapping[str, ServedModel]
    refused: tuple[RefusedBundle, ...]


def open_repository(folder: Path, config: RunnerConfig) -> Repository:
    """Open the newest version of every model that can be opened; older ones are not looked at.

    Args:
        folder: Holds `<name>/<version>/`.
        config: How to run each.

    Raises:
        BundleError: The folder is none.
        ProviderUnavailable: CUDA was insisted on and does not work.
    """
    models: dict[str, ServedModel] = {}
    refused = []
    for path in reversed(list_versions(folder)):
        if path.name in models:
            continue
        try:
            models[path.name] = _open(path, config)
        except ProviderUnavailable:
            raise
        except Exception as error:  # whatever is wrong with one bundle, the others serve
            expected = isinstance(error, BundleError)
            _log.debug("%s is refused", path.folder, exc_info=not expected)
            refused.append(RefusedBundle(path.name, path.version, first_line(error)))
    return Repository(dict(sorted(models.items())), tuple(reversed(refused)))


def _open(path: BundlePath, config: RunnerConfig) -> ServedModel:
    manifest = load_manifest(path.folder)
    tokenizers = load_tokenizers(path.folder, manifest)
    _check_search(path.folder, manifest, tokenizers)
    crf = load_crf(path.folder, manifest)
    return ServedModel(manifest, tokenizers, open_runner(path.folder, manifest, config), crf)


def _check_search(folder: Path, manifest: Manifest, tokenizers: Mapping[str, Tokenizer]) -> None:
    """What the engine takes for granted when it searches and samples."""
    if manifest.task not in _GENERATING_ROLES:
        return
    vocabulary = tokenizers[_GENERATING_ROLES[manifest.task]].vocabulary
    for symbol, expected in ((BOS, BOS_ID), (EOS, EOS_ID)):
        if vocabulary.special(symbol) != expected:
            raise BundleError(f"{folder}: {symbol}: expected id {expected}, got {vocabulary.special(symbol)}")
    if manifest.task != "encoder_decoder":
        return
    # A beam expands each hypothesis by its best 2 * beam_size tokens.
    needed = min(2 * manifest.decoding.max_beam_size, len(vocabulary))
    shapes = {tensor.name: tensor.shape for tensor in manifest.graphs["step"].outputs}
    got = shapes.get("top_tokens", ("B", 0))[1]
    if not isinstance(got, int) or got < needed:
        raise BundleError(
            f"{folder}: top_tokens of the step graph: expected at least {needed} a row for a beam of "
            f"{manifest.decoding.max_beam_size}, got {got}"
        )
