"""From a data config to the examples of each split, and the record of what was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.data.columns import read_columns
from models.data.conllu import read_conllu
from models.data.errors import DataError
from models.data.examples import Example, Pair, TaggedSentence
from models.data.labelled import read_labelled
from models.data.lexicon import gruut_lexicon_path, gruut_version, read_cmudict, read_gruut
from models.data.lines import sha256
from models.data.parallel import read_parallel, read_parallel_tsv
from models.data.plain import read_plain
from models.data.splits import split_by_word, split_text
from models.training.data_config import (
    CmudictData,
    ColumnsData,
    ConlluData,
    DataConfig,
    GruutData,
    LabelledData,
    ParallelData,
    ParallelTsvData,
    TextData,
    TwoFiles,
)


@dataclass(frozen=True)
class Corpus:
    """The examples of each split (train, dev and perhaps test), and where they came from.

    Args:
        splits: Examples by split, all of one kind.
        record: What `data.json` holds: files with SHA-256, counts, the split seed.
    """

    splits: Mapping[str, Sequence[Example]]
    record: Mapping[str, object]

    def pairs(self, split: str) -> list[Pair]:
        """The examples of a split, which are pairs."""
        return [example for example in self.split(split) if isinstance(example, Pair)]

    def sentences(self, split: str) -> list[TaggedSentence]:
        """The examples of a split, which are tagged sentences."""
        return [example for example in self.split(split) if isinstance(example, TaggedSentence)]

    def texts(self, split: str) -> list[str]:
        """The examples of a split, which are texts."""
        return [example for example in self.split(split) if isinstance(example, str)]

    def split(self, name: str) -> Sequence[Example]:
        """The examples of a split.

        Raises:
            DataError: There is no such split, or nothing in it.
        """
        if name not in self.splits:
            raise DataError("no such split", expected=" or ".join(self.splits), got=name)
        if not self.splits[name]:
            raise DataError(f"the {name} split is empty", expected="at least one example", got="none")
        return self.splits[name]


def read_corpus(config: DataConfig) -> Corpus:
    """Read all splits of a run's data.

    Raises:
        DataError: A file is missing or malformed, or a split is empty.
    """
    splits = _read(config)
    record: dict[str, object] = {
        "format": config.format,
        "files": [_file_record(path) for path in _files(config)],
        "counts": {name: _count(examples) for name, examples in splits.items()},
    }
    if isinstance(config, CmudictData | GruutData):
        record["split_seed"] = config.split_seed
    if isinstance(config, GruutData):
        record["package"] = f"gruut-lang-en {gruut_version()}"
    corpus = Corpus(splits, record)
    for name in splits:
        corpus.split(name)
    return corpus


def _read(config: DataConfig) -> dict[str, Sequence[Example]]:
    match config:
        case ConlluData():
            return {name: list(read_conllu(path, config.column)) for name, path in _parts(config)}
        case ColumnsData():
            return {
                name: list(
                    read_columns(
                        path,
                        token_column=config.token_column,
                        tag_column=config.tag_column,
                        separator=config.separator,
                        comment=config.comment,
                        bio=config.bio,
                    )
                )
                for name, path in _parts(config)
            }
        case ParallelData():
            sides = {"train": config.train, "dev": config.dev} | ({"test": config.test} if config.test else {})
            return {name: list(read_parallel(both.source, both.target)) for name, both in sides.items()}
        case ParallelTsvData():
            return {name: list(read_parallel_tsv(path)) for name, path in _parts(config)}
        case LabelledData():
            return {
                name: list(
                    read_labelled(
                        path,
                        label_column=config.label_column,
                        text_column=config.text_column,
                        separator=config.separator,
                    )
                )
                for name, path in _parts(config)
            }
        case CmudictData():
            return dict(
                split_by_word(read_cmudict(config.file, config.stress), config.dev, config.test, config.split_seed)
            )
        case GruutData():
            return dict(split_by_word(read_gruut(None, config.stress), config.dev, config.test, config.split_seed))
        case TextData():
            if config.file is not None:
                (text,) = read_plain(config.file, "file")
                cut = split_text(text, config.dev_fraction, config.test_fraction)
                return {name: [part] for name, part in cut.items() if part}
            return {name: read_plain(path, config.boundary, config.keep_blank) for name, path in _parts(config)}


def _parts(config: ConlluData | ColumnsData | ParallelTsvData | LabelledData | TextData) -> list[tuple[str, Path]]:
    named = (("train", config.train), ("dev", config.dev), ("test", config.test))
    return [(name, path) for name, path in named if path is not None]


def _files(config: DataConfig) -> list[Path]:
    match config:
        case GruutData():
            return [gruut_lexicon_path()]
        case CmudictData():
            return [config.file]
        case ParallelData():
            sides: list[TwoFiles | None] = [config.train, config.dev, config.test]
            return [path for both in sides if both is not None for path in (both.source, both.target)]
        case TextData(file=file) if file is not None:
            return [file]
        case _:
            return [path for _, path in _parts(config)]


def _file_record(path: Path) -> dict[str, object]:
    # The name alone: where the file lay on the machine that trained is nobody's business later.
    return {"name": path.name, "sha256": sha256(path), "num_bytes": path.stat().st_size}


def _count(examples: Sequence[Example]) -> dict[str, int]:
    first = examples[0] if examples else None
    if isinstance(first, TaggedSentence):
        words = sum(len(example.words) for example in examples if isinstance(example, TaggedSentence))
        return {"sentences": len(examples), "words": words}
    if isinstance(first, Pair):
        targets = sum(len(example.targets) for example in examples if isinstance(example, Pair))
        return {"sources": len(examples), "pairs": targets}
    return {"texts": len(examples), "characters": sum(len(example) for example in examples if isinstance(example, str))}
