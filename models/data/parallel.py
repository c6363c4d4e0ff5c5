"""Parallel text: two line-aligned files, or one tab-separated file of two columns."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from models.data.errors import DataError
from models.data.examples import Pair
from models.data.lines import read_lines


def read_parallel(source: Path, target: Path) -> Iterator[Pair]:
    """Yield the pairs of two files that are aligned line by line.

    Raises:
        DataError: One file is longer, or a line is empty in one or both.
    """
    for left, right in zip_longest(read_lines(source), read_lines(target)):
        if left is None or right is None:
            longer, shorter, number = (target, source, right[0]) if left is None else (source, target, left[0])
            raise DataError(
                f"has more lines than {shorter}", path=longer, line=number, expected=f"{number - 1} lines", got="more"
            )
        number = left[0]
        for path, text in ((source, left[1]), (target, right[1])):
            if not text.strip():
                raise DataError(
                    "empty line in parallel text", path=path, line=number, expected="a sentence", got=repr(text)
                )
        yield Pair(left[1], (right[1],))


def read_parallel_tsv(path: Path) -> Iterator[Pair]:
    """Yield the pairs of a file of `source TAB target` lines.

    Raises:
        DataError: A line without exactly two non-empty columns.
    """
    for number, line in read_lines(path):
        fields = line.split("\t")
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise DataError(
                "malformed pair", path=path, line=number, expected="source TAB target, neither empty", got=repr(line)
            )
        yield Pair(fields[0], (fields[1],))
