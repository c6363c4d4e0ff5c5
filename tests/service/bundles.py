"""Whole bundles in a repository, around the tiny graphs."""

from pathlib import Path

from export.bundle import hash_files, write_manifest
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
