"""The encoder-decoder that the benchmark asks, with random weights, and its requests.

A bidirectional LSTM encoder of 512 each direction, a decoder of 512 with attention, 10,000 words each side. Its end
symbol is made all but impossible: an answer is as long as its request's `max_tokens`, and these are drawn, so that
lengths are known and vary as those of translations do.
"""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.untrained import publish_untrained
from export.manifest import DecodingDefaults, Precision
from models.config import EncoderDecoderConfig
from models.symbols import EOS_ID, SPECIALS
from protos.carryover.v1 import carryover_pb2 as pb

if TYPE_CHECKING:
    from torch import nn

WORDS, DIM, HIDDEN, ATTENTION = 10_000, 256, 512, 256
LONGEST = 64  # target tokens
NAME = "bench-transducer"


def publish(repository: Path, precision: Precision = "fp32") -> Path:
    """Write the model into a repository as version 1; returns the bundle's folder."""
    config = EncoderDecoderConfig(
        source_dim=DIM, target_dim=DIM, hidden=HIDDEN, attention_dim=ATTENTION, dropout=0.0, cell="lstm"
    )
    words = [*SPECIALS, *(f"w{i}" for i in range(WORDS - len(SPECIALS)))]
    decoding = DecodingDefaults(max_tokens=LONGEST, top_k=8, max_beam_size=4)
    return publish_untrained(
        repository,
        NAME,
        config,
        {"source": words, "target": words},
        {"source": "whitespace", "target": "whitespace"},
        precision,
        decoding,
        _never_end,
    )


def _never_end(model: "nn.Module") -> None:
    import torch

    from models.encoder_decoder import EncoderDecoder

    assert isinstance(model, EncoderDecoder)
    with torch.no_grad():
        model.output.bias[EOS_ID] = -1e4


def requests(count: int, seed: int = 1, beam_size: int = 1) -> Iterable[pb.TransduceRequest]:
    """Draw requests: source of 4 to 40 words, answer of 4 to `LONGEST`, 16 on average, right-skewed."""
    draw = random.Random(seed)
    for _ in range(count):
        length = 4 + min(LONGEST - 4, round(draw.gammavariate(1.5, 8)))
        source = " ".join(f"w{draw.randrange(WORDS - len(SPECIALS))}" for _ in range(max(4, min(40, length))))
        model = pb.ModelRef(name=NAME)
        yield pb.TransduceRequest(model=model, source=source, beam_size=beam_size, num_best=1, max_tokens=length)
