"""Write what a bundle holds: graphs, vocabularies, CRF scores; and describe it in a manifest."""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

from export.emit.emitted import EmittedModel
from export.manifest import DecodingDefaults, Manifest, Precision, TokenizerSpec
from models.crf import LinearChainCrf
from models.tagger import Tagger
from models.tokenizer import Tokenizer
from models.training.checkpoint import Checkpoint

CRF_FILE: Final = "crf.npz"
VOCABULARIES: Final = "vocabulary"
_PACKAGES: Final = ("carryover", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers")


def write_bundle(
    bundle: Path,
    name: str,
    run: Path,
    checkpoint: Checkpoint,
    emitted: EmittedModel,
    precision: Precision,
    decoding: DecodingDefaults,
) -> Manifest:
    """Write the files of a staged bundle, all but the manifest itself.

    Args:
        bundle: An empty folder.
        name: Of the model in the repository.
        run: Where the checkpoint came from: paths in the recorded config are relative to it.
        checkpoint: What was trained.
        emitted: Its graphs.
        precision: Of the graphs.
        decoding: What requests get that leave choices open.

    Returns:
        The manifest; `export.publish` fills in the version and the file table.
    """
    for kind, graph in emitted.graphs.items():
        (bundle / emitted.specs[kind].file).write_bytes(graph.SerializeToString())
    for variant, graphs in emitted.variants.items():
        for kind, graph in graphs.items():
            (bundle / emitted.specs[kind].variants[variant]).write_bytes(graph.SerializeToString())
    (bundle / VOCABULARIES).mkdir()
    crf = checkpoint.model.crf if isinstance(checkpoint.model, Tagger) else None
    if crf is not None:
        _write_crf(bundle / CRF_FILE, crf)
    config = checkpoint.config
    return Manifest(
        name=name,
        version=1,
        task=config.model.family,
        precision=precision,
        graphs=emitted.specs,
        states=emitted.states,
        memories=emitted.memories,
        tokenizers=_write_tokenizers(bundle, checkpoint.tokenizers),
        crf_file=None if crf is None else CRF_FILE,
        decoding=decoding,
        training_config=config.model_dump(mode="json", context={"folder": run}),
        data=checkpoint.data,
        metrics=checkpoint.metrics,
        tool_versions=_tool_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files={},
    )


def _write_tokenizers(bundle: Path, tokenizers: Mapping[str, Tokenizer]) -> dict[str, TokenizerSpec]:
    specs = {}
    for role, tokenizer in tokenizers.items():
        vocabulary, file = f"{VOCABULARIES}/{role}.json", None
        tokenizer.vocabulary.save(bundle / vocabulary)
        if tokenizer.subword is not None:
            file = f"{VOCABULARIES}/{role}.tokenizer.json"
            tokenizer.subword.save(str(bundle / file))
        specs[role] = TokenizerSpec(
            kind=tokenizer.kind,
            vocabulary=vocabulary,
            file=file,
            lowercase=tokenizer.lowercase,
            reverse=tokenizer.reverse,
        )
    return specs


def _write_crf(path: Path, crf: LinearChainCrf) -> None:
    start, end, transitions = (score.detach().cpu().numpy() for score in (crf.start, crf.end, crf.transitions))
    np.savez(path, start=start, end=end, transitions=transitions)


def _tool_versions() -> dict[str, str]:
    """Versions of what made the bundle, of those packages that are installed."""
    installed = {str(found.metadata["Name"]).lower(): found.version for found in metadata.distributions()}
    return {package: installed[package] for package in _PACKAGES if package in installed}
