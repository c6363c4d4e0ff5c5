"""Labelled text: a label and a text a line, as for classification."""

from collections.abc import Iterator
from pathlib import Path

from models.data.errors import DataError
from models.data.examples import Pair
from models.data.lines import read_lines


def read_labelled(path: Path, *, label_column: int = 0, text_column: int = 1, separator: str = "\t") -> Iterator[Pair]:
    """Yield texts with their label as the (one-token) target.

    Args:
        path: The file, plain or gzip.
        label_column: Column of the label, from 0.
        text_column: Column of the text, from 0.
        separator: What stands between columns; the last column may hold it too.

    Raises:
        DataError: A line with too few columns, an empty text, or a label with a space in it.
    """
    needed = max(label_column, text_column) + 1
    for number, line in read_lines(path):
        fields = line.split(separator, needed - 1)
        if len(fields) < needed or not fields[text_column].strip():
            raise DataError(
                "malformed labelled line",
                path=path,
                line=number,
                expected=f"at least {needed} columns separated by {separator!r}, the text not empty",
                got=repr(line),
            )
        label = fields[label_column]
        if len(label.split()) != 1:
            raise DataError("malformed label", path=path, line=number, expected="one word", got=repr(label))
        yield Pair(fields[text_column], (label,))
