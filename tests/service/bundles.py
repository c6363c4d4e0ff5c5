"""Whole bundles in a repository, around the tiny graphs."""

from pathlib import Path

import onnx
import torch

from export.bundle import hash_files, write_manifest
from export.emit.emit import emit
from export.manifest import Manifest, TokenizerSpec
from models.build import build_model
from models.config import LanguageModelConfig
from models.symbols import BOS, EOS, PAD, UNK
from models.vocabulary import Vocabulary
from tests.service.tiny_models import VOCABULARY, make_table, write_encoder_decoder

TINY = Vocabulary((PAD, UNK, BOS, EOS, *"abc"), 4)
assert len(TINY) == VOCABULARY


def publish_transducer(repository: Path, name: str = "tiny", version: int = 1) -> Path:
    """Write an encoder-decoder of seven tokens into a repository; returns the bundle's folder."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    manifest = write_encoder_decoder(folder, make_table())
    tokenizers = {role: spec.model_copy(update={"kind": "characters"}) for role, spec in manifest.tokenizers.items()}
    for role in tokenizers:
        TINY.save(folder / f"{role}.json")
    changes = {"name": name, "version": version, "tokenizers": tokenizers, "files": hash_files(folder)}
    write_manifest(folder, manifest.model_copy(update=changes))
    return folder


def publish_language_model(repository: Path, name: str = "lm", version: int = 1) -> Path:
    """Write a language model of seven tokens, whose random weights the version tells; returns the bundle's folder."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    torch.manual_seed(version)
    model = build_model(LanguageModelConfig(dim=8, hidden=8, layers=1), {"tokens": VOCABULARY}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # far from uniform, so that states show in the answers
    emitted = emit(model, "fp32", top_k=3)
    for kind, graph in emitted.graphs.items():
        onnx.save(graph, folder / emitted.specs[kind].file)
    TINY.save(folder / "tokens.json")
    manifest = Manifest(
        name=name,
        version=version,
        task="language_model",
        precision="fp32",
        graphs=emitted.specs,
        states=emitted.states,
        memories=emitted.memories,
        tokenizers={"tokens": TokenizerSpec(kind="characters", vocabulary="tokens.json")},
        created="2025-01-01T00:00:00Z",
        files=hash_files(folder),
    )
    write_manifest(folder, manifest)
    return folder
