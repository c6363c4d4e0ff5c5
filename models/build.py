"""Build the torch module that a config describes."""

from torch import nn

from models.config import EncoderDecoderConfig, LanguageModelConfig, ModelConfig, TaggerConfig
from models.encoder_decoder import EncoderDecoder
from models.language_model import LanguageModel
from models.tagger import Tagger
from models.vocabulary import VOCABULARY_ROLES


def build_model(config: ModelConfig, vocabulary_sizes: dict[str, int]) -> nn.Module:
    """Build a model with fresh weights, drawn from torch's global random state.

    Args:
        config: One of the three families.
        vocabulary_sizes: Entries of each vocabulary, by role: words, characters and tags; source and target; or tokens.

    Raises:
        ValueError: The roles are not those of the family.
    """
    roles = VOCABULARY_ROLES[config.family]
    if set(vocabulary_sizes) != set(roles):
        raise ValueError(f"vocabularies of a {config.family}: expected {sorted(roles)}, got {sorted(vocabulary_sizes)}")
    sizes = [vocabulary_sizes[role] for role in roles]
    match config:
        case TaggerConfig():
            return Tagger(config, *sizes)
        case EncoderDecoderConfig():
            return EncoderDecoder(config, *sizes)
        case LanguageModelConfig():
            return LanguageModel(config, *sizes)
