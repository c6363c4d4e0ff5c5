"""Hyperparameters of the three model families. No torch.

What a family is built from, and nothing about data or training (see `models/training/config.py`). Unknown keys and
impossible values are errors that name the key.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Cell = Literal["lstm", "gru"]
Width = Annotated[int, Field(ge=1, le=8192)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaggerConfig(_Config):
    """Word embedding + character BiRNN -> (Bi)RNN -> scores per tag, greedy or CRF (Lample et al. 2016)."""

    family: Literal["tagger"] = "tagger"
    cell: Cell = "lstm"
    word_dim: Width = 128
    character_dim: Width = Field(default=32, description="embedding of a character")
    character_hidden: Width = Field(default=48, description="units of the character BiRNN, each direction")
    hidden: Width = Field(default=200, description="units of the word RNN, each direction")
    layers: int = Field(default=1, ge=1, le=8)
    bidirectional: bool = True
    dropout: Probability = 0.3
    word_dropout: Probability = Field(default=0.0, description="chance that training reads a word as <unk>")
    crf: bool = False


class EncoderDecoderConfig(_Config):
    """Encoder-decoder with attention; previous word and context enter every decoder step (Bahdanau et al. 2015)."""

    family: Literal["encoder_decoder"] = "encoder_decoder"
    cell: Cell = "lstm"
    source_dim: Width = 128
    target_dim: Width = 128
    hidden: Width = Field(default=256, description="units of the decoder, and of the encoder each direction")
    attention_dim: Width = Field(default=128, description="width of the projected keys")
    encoder_layers: int = Field(default=1, ge=1, le=8)
    decoder_layers: int = Field(default=1, ge=1, le=8)
    bidirectional: bool = Field(default=True, description="of the encoder")
    attention: Literal["additive", "multiplicative"] = "additive"
    dropout: Probability = 0.2


class LanguageModelConfig(_Config):
    """Embedding -> RNN -> softmax over the next token (Zaremba et al. 2014)."""

    family: Literal["language_model"] = "language_model"
    cell: Cell = "lstm"
    dim: Width = Field(default=256, description="token embedding")
    hidden: Width = 512
    layers: int = Field(default=2, ge=1, le=8)
    dropout: Probability = 0.2
    tied: bool = Field(
        default=False, description="output weights are the embedding; needs dim = hidden (Press and Wolf 2017)"
    )
    bidirectional: Literal[False] = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_bidirectional(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("bidirectional"):
            raise ValueError(
                "a language model cannot be bidirectional: the backward direction reads the very token to be predicted"
            )
        return data

    @model_validator(mode="after")
    def _tied_widths(self) -> "LanguageModelConfig":
        if self.tied and self.dim != self.hidden:
            raise ValueError(f"tied needs dim = hidden, got dim {self.dim} and hidden {self.hidden}")
        return self


ModelConfig = Annotated[TaggerConfig | EncoderDecoderConfig | LanguageModelConfig, Field(discriminator="family")]
