"""The model that the benchmark steps: a word language model with random weights.

Embedding 10,000 x 256, two LSTM layers of 512, projection to 10,000 (the step model of every figure in the docs).
Weights do not change the cost of a step, so nothing is trained.
"""

from pathlib import Path

VOCABULARY, EMBEDDING, HIDDEN, LAYERS = 10_000, 256, 512, 2
NAME = "bench-lstm"


def publish(repository: Path) -> Path:
    """Export the model into a repository; returns the bundle's folder.

    Torch and onnx are imported here only: the processes that measure never load them.
    """
    import torch

    from bench.publish_random import publish_random
    from models.build import build_model
    from models.config import LanguageModelConfig
    from models.vocabulary import BOS, EOS, PAD, UNK, Vocabulary

    torch.manual_seed(0)
    words = Vocabulary((PAD, UNK, BOS, EOS, *(f"w{i}" for i in range(VOCABULARY - 4))), 4)
    config = LanguageModelConfig(cell="lstm", dim=EMBEDDING, hidden=HIDDEN, layers=LAYERS, dropout=0.0)
    model = build_model(config, {"tokens": len(words)}).eval()
    return publish_random(repository, NAME, config, model, {"tokens": words})
