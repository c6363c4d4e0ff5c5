"""The model that the benchmark steps: a word language model with random weights.

Embedding 10,000 x 256, two LSTM layers of 512, projection to 10,000 (the step model of every figure in the docs).
Weights do not change the cost of a step, so nothing is trained, and parity is left to real exports.
"""

from datetime import UTC, datetime
from pathlib import Path

VOCABULARY, EMBEDDING, HIDDEN, LAYERS = 10_000, 256, 512, 2
NAME = "bench-lstm"


def publish(repository: Path) -> Path:
    """Write the model into a repository as version 1; returns the bundle's folder.

    Torch and onnx are imported here only: the processes that measure never load them.
    """
    import torch

    from export.bundle import hash_files, write_manifest
    from export.emit.emit import emit
    from export.manifest import Manifest, TokenizerSpec
    from models.build import build_model
    from models.config import LanguageModelConfig
    from models.symbols import SPECIALS
    from models.vocabulary import Vocabulary

    torch.manual_seed(0)
    config = LanguageModelConfig(cell="lstm", dim=EMBEDDING, hidden=HIDDEN, layers=LAYERS, dropout=0.0)
    emitted = emit(build_model(config, {"tokens": VOCABULARY}).eval(), "fp32", top_k=1)
    bundle = repository / NAME / "1"
    bundle.mkdir(parents=True)
    for kind, graph in emitted.graphs.items():
        (bundle / emitted.specs[kind].file).write_bytes(graph.SerializeToString())
    words = (f"w{i}" for i in range(VOCABULARY - len(SPECIALS)))
    Vocabulary((*SPECIALS, *words), len(SPECIALS)).save(bundle / "tokens.json")
    manifest = Manifest(
        name=NAME,
        version=1,
        task="language_model",
        precision="fp32",
        graphs=emitted.specs,
        states=emitted.states,
        tokenizers={"tokens": TokenizerSpec(kind="whitespace", vocabulary="tokens.json")},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files=hash_files(bundle),
    )
    write_manifest(bundle, manifest)
    return bundle
