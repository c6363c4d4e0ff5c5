"""Where the data of a run comes from, by format. Relative paths are relative to the config file's folder."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
    model_validator,
)

from models.data.conllu import Column
from models.data.lexicon import Stress
from models.data.plain import Boundary


def _resolve(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path if folder is None else Path(os.path.normpath(folder / path))


def _relative(path: Path, info: SerializationInfo) -> str:
    context = info.context if isinstance(info.context, dict) else {}
    folder = context.get("folder")
    return str(path) if folder is None else os.path.relpath(path, folder)


DataPath = Annotated[Path, AfterValidator(_resolve), PlainSerializer(_relative, return_type=str)]
"""A path, resolved against the context's `folder` when read and written relative to it."""

Words = Annotated[int, Field(ge=1, le=1_000_000)]
Fraction = Annotated[float, Field(ge=0, lt=0.5)]


class Strict(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConlluData(Strict):
    """CoNLL-U files, one a split."""

    format: Literal["conllu"]
    train: DataPath
    dev: DataPath
    test: DataPath | None = None
    column: Column = Field(default="upos", description="which column is the tag")


class ColumnsData(Strict):
    """Column files, one a split; see `models.data.columns`."""

    format: Literal["columns"]
    train: DataPath
    dev: DataPath
    test: DataPath | None = None
    token_column: int = 0
    tag_column: int = -1
    separator: str = Field(default="\t", min_length=1)
    comment: str | None = Field(default=None, min_length=1, description="lines that begin so are left out")
    bio: bool = Field(default=True, description="tags are O, B-x, I-x, and scored by span F1")


class TwoFiles(Strict):
    """Two files that are aligned line by line."""

    source: DataPath
    target: DataPath


class ParallelData(Strict):
    """Sentences and their translations, in two files a split."""

    format: Literal["parallel"]
    train: TwoFiles
    dev: TwoFiles
    test: TwoFiles | None = None


class ParallelTsvData(Strict):
    """Sentences and their translations, in one tab-separated file a split."""

    format: Literal["parallel_tsv"]
    train: DataPath
    dev: DataPath
    test: DataPath | None = None


class LabelledData(Strict):
    """Texts with a label, in one file a split."""

    format: Literal["labelled"]
    train: DataPath
    dev: DataPath
    test: DataPath | None = None
    label_column: int = Field(default=0, ge=0)
    text_column: int = Field(default=1, ge=0)
    separator: str = Field(default="\t", min_length=1)


class _Lexicon(Strict):
    stress: Stress = Field(default="keep", description="whether marks of stress are part of a phoneme")
    dev: Words = Field(default=2000, description="words of the dev split")
    test: Words = Field(default=2000, description="words of the test split")
    split_seed: int = Field(default=0, ge=0)


class CmudictData(_Lexicon):
    """A pronunciation lexicon in CMUdict format, split by word."""

    format: Literal["cmudict"]
    file: DataPath


class GruutData(_Lexicon):
    """The English lexicon inside the package gruut-lang-en, split by word."""

    format: Literal["gruut"]


class TextData(Strict):
    """Plain text: a file a split, or one file that is cut in three."""

    format: Literal["text"]
    train: DataPath | None = None
    dev: DataPath | None = None
    test: DataPath | None = None
    file: DataPath | None = Field(default=None, description="instead of train, dev and test; boundary must be file")
    dev_fraction: Fraction = Field(default=0.05, description="of `file`, after the part to train on")
    test_fraction: Fraction = Field(default=0.05, description="of `file`, at its end")
    boundary: Boundary = Field(default="line", description="what begins with <s> and ends with </s>")
    keep_blank: bool = Field(default=True, description="with boundary line: blank lines are (empty) texts")

    @model_validator(mode="after")
    def _one_way(self) -> "TextData":
        parts = self.train is not None and self.dev is not None
        if parts == (self.file is not None) or (self.file is not None and (self.train or self.dev or self.test)):
            raise ValueError("expected either train and dev, or file")
        if self.file is not None and self.boundary != "file":
            raise ValueError(f"file needs boundary file (it is cut by characters), got {self.boundary}")
        return self


DataConfig = Annotated[
    ConlluData | ColumnsData | ParallelData | ParallelTsvData | LabelledData | CmudictData | GruutData | TextData,
    Field(discriminator="format"),
]
