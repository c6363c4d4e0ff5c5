"""The models that lie in a repository: where, opened, and why those that are broken cannot be served."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from export.bundle import BundleError, BundlePath, Crf, list_versions, load_crf, load_manifest, load_tokenizers
from export.manifest import GraphKind, Manifest, Task
from models.symbols import BOS, BOS_ID, EOS, EOS_ID
from models.tokenizer import Tokenizer
from service.devices.closing import close_runner
from service.devices.opening import open_others
from service.measuring.company import bound, probe_company
from service.measuring.host import describe_host
from service.measuring.invariance import batch_sizes
from service.measuring.profile import HostProfile, load_or_measure
from service.measuring.variant import open_quickest
from service.placing import place
from service.runtime.errors import ProviderUnavailable, first_line
from service.runtime.opening import open_runner
from service.runtime.providers import CPU
from service.runtime.runner import Runner, RunnerConfig

RefusalKind = Literal["bundle", "graphs"]

_log = logging.getLogger(__name__)
_TRIAL_SLOTS, _TRIAL_MEMORY_ROWS = 16, 64  # measurements touch the initial state and scratch rows alone
_GENERATING_ROLES = {"encoder_decoder": "target", "language_model": "tokens"}
# Outputs as wide as a vocabulary: graph, output, role. An encoder_decoder gives its best targets alone.
_VOCABULARY_OUTPUTS: Final[Mapping[Task, tuple[tuple[GraphKind, str, str], ...]]] = {
    "tagger": (("sequence", "emissions", "tags"),),
    "language_model": (("step", "log_probs", "tokens"),),
    "encoder_decoder": (),
    "tensors": (),
}


@dataclass(frozen=True)
class ServedModel:
    """One bundle, opened.

    Args:
        bundle: Its manifest, verified.
        manifest: The same as it is run here: perhaps by other graphs, perhaps with fewer rows a run.
        tokenizers: By role.
        runner: For an engine to own.
        others: On further devices, for an engine each.
        crf: Scores of a CRF tagger.
        profile: What runs cost on this machine.
        variances: Where answers depend on who shares the batch; nothing is good.
    """

    bundle: Manifest
    manifest: Manifest
    tokenizers: Mapping[str, Tokenizer]
    runner: Runner
    crf: Crf | None
    profile: HostProfile
    variances: tuple[str, ...]
    others: tuple[Runner, ...] = ()

    @property
    def runners(self) -> tuple[Runner, ...]:
        """On all devices, one each."""
        return self.runner, *self.others

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should know of them, each thing once."""
        return tuple(dict.fromkeys(warning for runner in self.runners for warning in runner.warnings))

    def close(self) -> None:
        """Let go of all runners; for who starts no engine. May take as long as `close_runner`, for each."""
        for runner in self.runners:
            close_runner(runner)


@dataclass(frozen=True)
class RefusedBundle:
    """One version that was found and cannot be served.

    Args:
        name: Of the model.
        version: Of the model.
        kind: What is wrong: its files, or the graphs on this machine.
        reason: One line, for the operator; may name paths of this machine.
    """

    name: str
    version: int
    kind: RefusalKind
    reason: str


def list_models(folder: Path) -> dict[str, list[BundlePath]]:
    """Find the bundles of a repository: by name, the newest first.

    Raises:
        BundleError: The folder is none.
    """
    found: dict[str, list[BundlePath]] = {}
    for path in reversed(list_versions(folder)):
        found.setdefault(path.name, []).append(path)
    return dict(sorted(found.items()))


def open_bundle(
    path: BundlePath,
    config: RunnerConfig,
    opened: Callable[[Runner], None] | None = None,
    others: Sequence[RunnerConfig] = (),
    max_batch_rows: int = 0,
) -> ServedModel | RefusedBundle:
    """Open one version of a model, and see what it does on this machine before anybody relies on it.

    Args:
        path: Where it lies.
        config: How to run it.
        opened: Called with each runner before it is measured, which may take a while: closing it ends that.
        others: How to run it on further devices. What was measured on the first one is taken to hold for all.
        max_batch_rows: Rows of a run that the settings allow; 0: any.

    Returns:
        The model; or why it cannot be served, whatever is wrong with it.

    Raises:
        ProviderUnavailable: CUDA was insisted on and does not work.
    """
    kind: RefusalKind = "bundle"
    try:
        manifest, tokenizers, crf = _read(path)
        kind = "graphs"
        if not others:  # who names several GPUs wants them
            config = place(path.folder, manifest, config, max_batch_rows)
        runner = open_graphs(path.folder, manifest, config, opened)
        try:
            model = _measured(path.folder, manifest, runner, tokenizers, crf, config)
            return replace(model, others=open_others(path.folder, runner, others)) if others else model
        except BaseException:
            close_runner(runner)
            raise
    except ProviderUnavailable:
        raise
    except Exception as error:
        expected = isinstance(error, BundleError)
        _log.debug("%s is refused", path.folder, exc_info=not expected)
        return RefusedBundle(path.name, path.version, kind, first_line(error))


def open_graphs(
    folder: Path, manifest: Manifest, config: RunnerConfig, opened: Callable[[Runner], None] | None = None
) -> Runner:
    """Open the graphs; where there are several of a step, those that are the quickest here.

    Args:
        folder: The bundle.
        manifest: Of it, verified.
        config: How to run it.
        opened: As of `open_bundle`.

    Raises:
        Exception: As `open_runner`.
    """

    def open_with(config: RunnerConfig, manifest: Manifest) -> Runner:
        runner = open_runner(folder, manifest, config)
        try:
            if opened is not None:
                opened(runner)
        except BaseException:
            close_runner(runner)
            raise
        return runner

    host = describe_host(config.provider, config)
    # With few slots, and batches as large as in service: what is captured there is captured in a trial.
    trial = replace(
        config,
        num_slots=_TRIAL_SLOTS,
        num_memory_rows=_TRIAL_MEMORY_ROWS,
        max_rows=config.max_rows or config.num_slots,
    )
    return open_quickest(folder, manifest, host, config.threads, partial(open_with, config), partial(open_with, trial))


def _measured(
    folder: Path,
    bundle: Manifest,
    runner: Runner,
    tokenizers: Mapping[str, Tokenizer],
    crf: Crf | None,
    config: RunnerConfig,
) -> ServedModel:
    """What runs cost, and whether company changes answers."""
    profile = load_or_measure(folder, runner, config)
    if profile.most_rows is not None:
        bound(runner, profile.most_rows, "runs of more fail")
    num_ids = {name: len(tokenizer.vocabulary) for name, tokenizer in tokenizers.items()}
    # The step graph of an encoder-decoder reads target ids as `tokens`; only a language model has `targets`.
    num_ids["tokens"] = num_ids["targets"] = num_ids.get("tokens") or num_ids.get("target", 0)
    with runner.shrinking():  # what measuring took goes back, too
        tf32 = config.tf32 and runner.provider != CPU
        found = probe_company(runner, batch_sizes(profile.max_rows), num_ids, tf32)
    variances = tuple(str(variance) for variance in found)
    return ServedModel(bundle, runner.manifest, tokenizers, runner, crf, profile, variances)


def _read(path: BundlePath) -> tuple[Manifest, Mapping[str, Tokenizer], Crf | None]:
    manifest = load_manifest(path.folder)
    tokenizers = load_tokenizers(path.folder, manifest)
    _check_sizes(path.folder, manifest, tokenizers)
    _check_search(path.folder, manifest, tokenizers)
    crf = load_crf(path.folder, manifest)
    if crf is not None and len(crf.start) != len(tokenizers["tags"].vocabulary):
        expected = len(tokenizers["tags"].vocabulary)
        raise BundleError(f"{path.folder}: CRF: expected scores of {expected} tags, got {len(crf.start)}")
    return manifest, tokenizers, crf


def _check_sizes(folder: Path, manifest: Manifest, tokenizers: Mapping[str, Tokenizer]) -> None:
    """Ids mean what the vocabulary says only if it has as many entries as the graphs have outputs."""
    for graph, output, role in _VOCABULARY_OUTPUTS[manifest.task]:
        if graph not in manifest.graphs:
            continue
        expected = {tensor.name: tensor.shape[-1] for tensor in manifest.graphs[graph].outputs}.get(output)
        got = len(tokenizers[role].vocabulary)
        if expected != got:
            raise BundleError(f"{folder}: vocabulary of {role}: expected {expected} entries as {output} has, got {got}")


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
    # A beam expands each hypothesis by its best 2 * beam_size tokens; more than there are tokens cannot be.
    needed = min(2 * manifest.decoding.max_beam_size, len(vocabulary))
    shapes = {tensor.name: tensor.shape for tensor in manifest.graphs["step"].outputs}
    got = shapes.get("top_tokens", ("B", 0))[1]
    if not isinstance(got, int) or not needed <= got <= len(vocabulary):
        raise BundleError(
            f"{folder}: top_tokens of the step graph: expected {needed} to {len(vocabulary)} a row for a beam of "
            f"{manifest.decoding.max_beam_size} and the target vocabulary, got {got}"
        )
