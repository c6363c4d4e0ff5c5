"""CoNLL-U: ten tab-separated columns a word, a blank line after each sentence.

Source: https://universaldependencies.org/format.html
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from models.data.errors import DataError
from models.data.examples import TaggedSentence
from models.data.lines import read_lines

Column = Literal["upos", "xpos"]
NUM_COLUMNS = 10
_FORM = 1
_COLUMNS: dict[Column, int] = {"upos": 3, "xpos": 4}
# A multiword token (`3-4`) repeats words that have rows of their own; an empty node (`8.1`) is no word of the text.
_NOT_A_WORD = re.compile(r"[0-9]+[-.][0-9]+")


def read_conllu(path: Path, column: Column = "upos") -> Iterator[TaggedSentence]:
    """Yield the sentences of a CoNLL-U file, with one column as tags.

    Args:
        path: The file, plain or gzip.
        column: Which column is the tag.

    Raises:
        DataError: A malformed line, with its number.
    """
    words: list[str] = []
    tags: list[str] = []
    for number, line in read_lines(path):
        if not line.strip():
            if words:
                yield TaggedSentence(tuple(words), tuple(tags))
                words, tags = [], []
            continue
        if line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != NUM_COLUMNS:
            raise DataError(
                "malformed word line",
                path=path,
                line=number,
                expected=f"{NUM_COLUMNS} tab-separated columns",
                got=f"{len(fields)}: {line!r}",
            )
        if _NOT_A_WORD.fullmatch(fields[0]):
            continue
        if fields[0] != str(len(words) + 1):
            raise DataError("word id", path=path, line=number, expected=str(len(words) + 1), got=repr(fields[0]))
        tag = fields[_COLUMNS[column]]
        if not fields[_FORM] or not tag or tag == "_":
            raise DataError(
                "word line without form or tag", path=path, line=number, expected=f"a form and {column}", got=repr(line)
            )
        words.append(fields[_FORM])
        tags.append(tag)
    if words:
        yield TaggedSentence(tuple(words), tuple(tags))
