"""From a trained module to ONNX graphs."""

from torch import nn

from export.emit.emitted import EmittedModel
from export.emit.encoder_decoder import emit_encoder_decoder
from export.emit.language_model import emit_language_model
from export.emit.tagger import emit_tagger
from export.manifest import Precision
from models.encoder_decoder import EncoderDecoder
from models.language_model import LanguageModel
from models.tagger import Tagger


def emit(model: nn.Module, precision: Precision, top_k: int = 16, for_cuda: bool = False) -> EmittedModel:
    """Emit the graphs of a model, as docs/architecture.md defines them.

    Args:
        model: One of the three families, with the weights to export. Dropout is left out.
        precision: fp32; fp16 for half the bits in weights and products, with states, attention and what follows the
            logits in fp32; or int8 for the static scheme of `export.emit.linear`.
        top_k: Best outputs that a step returns; at most the vocabulary (or the tags).
        for_cuda: Whether to emit the variants of step and chunk as well; see `export.manifest.Variant`.

    Raises:
        ValueError: top_k is less than 1, or int8 is wanted for CUDA, which has no such products.
        TypeError: The model is none of the three families.
    """
    if top_k < 1:
        raise ValueError(f"top_k: expected at least 1, got {top_k}")
    if for_cuda and precision == "int8":
        raise ValueError("precision: expected fp32 or fp16 for cuda, got int8")
    match model:
        case Tagger():
            return emit_tagger(model, precision, top_k, for_cuda)
        case EncoderDecoder():
            return emit_encoder_decoder(model, precision, top_k, for_cuda)
        case LanguageModel():
            return emit_language_model(model, precision, top_k, for_cuda)
    raise TypeError(f"model: expected a Tagger, EncoderDecoder or LanguageModel, got {type(model).__name__}")
