"""Bundles of models with random weights: weights do not change what a step costs, so nothing is trained.

Parity is left to real exports.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from export.manifest import DecodingDefaults, GraphKind, Precision

if TYPE_CHECKING:
    from torch import nn

    from models.config import ModelConfig

Kind = Literal["characters", "whitespace", "subword", "none"]


def publish_untrained(
    repository: Path,
    name: str,
    config: "ModelConfig",
    vocabularies: Mapping[str, Sequence[str]],
    kinds: Mapping[str, Kind],
    precision: Precision,
    decoding: DecodingDefaults,
    adjust: "Callable[[nn.Module], None]" = lambda model: None,
    for_cuda: bool = False,
    without: Collection[GraphKind] = (),
) -> Path:
    """Write a model into a repository as version 1; returns the bundle's folder.

    Torch and onnx are imported here only: the processes that measure never load them.

    Args:
        repository: Made if need be.
        name: Of the model.
        config: What to build.
        vocabularies: Tokens by role, special symbols included.
        kinds: How text becomes tokens, by role.
        precision: Of the graphs.
        decoding: Defaults of the bundle; `top_k` is also what a step returns.
        adjust: Changes the weights.
        for_cuda: Whether to write the variants of step and chunk as well; not for int8.
        without: Graphs that are left out, though the service would use them.
    """
    import torch

    from export.bundle import hash_files, write_manifest
    from export.emit.emit import emit
    from export.manifest import Manifest, TokenizerSpec
    from models.build import build_model
    from models.symbols import SPECIALS
    from models.vocabulary import Vocabulary

    torch.manual_seed(0)
    model = build_model(config, {role: len(tokens) for role, tokens in vocabularies.items()}).eval()
    adjust(model)
    emitted = emit(model, precision, top_k=decoding.top_k, for_cuda=for_cuda)
    bundle = repository / name / "1"
    bundle.mkdir(parents=True)
    specs = {kind: spec for kind, spec in emitted.specs.items() if kind not in without}
    for kind, spec in specs.items():
        (bundle / spec.file).write_bytes(emitted.graphs[kind].SerializeToString())
        for variant, file in spec.variants.items():
            (bundle / file).write_bytes(emitted.variants[variant][kind].SerializeToString())
    for role, tokens in vocabularies.items():
        num_special = len(SPECIALS) if tuple(tokens[: len(SPECIALS)]) == SPECIALS else 0
        Vocabulary(tuple(tokens), num_special).save(bundle / f"{role}.json")
    manifest = Manifest(
        name=name,
        version=1,
        task=config.family,
        precision=precision,
        graphs=specs,
        states=emitted.states,
        memories=emitted.memories,
        tokenizers={role: TokenizerSpec(kind=kinds[role], vocabulary=f"{role}.json") for role in vocabularies},
        decoding=decoding,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files=hash_files(bundle),
    )
    write_manifest(bundle, manifest)
    return bundle
