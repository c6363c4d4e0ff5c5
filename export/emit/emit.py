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


def emit(model: nn.Module, precision: Precision, top_k: int = 16) -> EmittedModel:
    """Emit the graphs of a model, as docs/architecture.md defines them.

    Args:
        model: One of the three families, with the weights to export. Dropout is left out.
        precision: fp32, or int8 for the static scheme of `export.emit.linear`.
        top_k: Best outputs that a step returns; at most the vocabulary (or the tags).

    Raises:
        ValueError: top_k is less than 1.
        TypeError: The model is none of the three families.
    """
    if top_k < 1:
        raise ValueError(f"top_k: expected at least 1, got {top_k}")
    match model:
        case Tagger():
            return emit_tagger(model, precision, top_k)
        case EncoderDecoder():
            return emit_encoder_decoder(model, precision, top_k)
        case LanguageModel():
            return emit_language_model(model, precision, top_k)
    raise TypeError(f"model: expected a Tagger, EncoderDecoder or LanguageModel, got {type(model).__name__}")
