"""Column files (CoNLL-2003 and its kin): one token a line with its tag, a blank line between sentences."""

from collections.abc import Iterator
from pathlib import Path

from models.data.errors import DataError
from models.data.examples import TaggedSentence
from models.data.lines import read_lines


def read_columns(
    path: Path,
    *,
    token_column: int = 0,
    tag_column: int = -1,
    separator: str = "\t",
    comment: str | None = None,
    bio: bool = True,
) -> Iterator[TaggedSentence]:
    """Yield the sentences of a column file.

    Args:
        path: The file, plain or gzip.
        token_column: Column of the token, from 0; negative counts from the right.
        tag_column: Column of the tag, likewise.
        separator: What stands between columns.
        comment: Lines that start with this, outside the columns, are left out; None: there are no comments (a token
            may begin with `#`).
        bio: Tags must be `O`, `B-x` or `I-x` (Ramshaw and Marcus 1995).

    Raises:
        DataError: A malformed line, with its number.
    """
    words: list[str] = []
    tags: list[str] = []
    num_columns: int | None = None
    needed = max(i + 1 if i >= 0 else -i for i in (token_column, tag_column))
    for number, line in read_lines(path):
        if not line.strip():
            if words:
                yield TaggedSentence(tuple(words), tuple(tags))
                words, tags = [], []
            continue
        if comment is not None and line.startswith(comment):
            continue
        fields = line.split(separator)
        if num_columns is None:
            num_columns = len(fields)
        if len(fields) != num_columns or len(fields) < needed:
            raise DataError(
                "malformed token line",
                path=path,
                line=number,
                expected=f"{max(num_columns, needed)} columns separated by {separator!r}",
                got=f"{len(fields)}: {line!r}",
            )
        word, tag = fields[token_column], fields[tag_column]
        if not word or not tag:
            raise DataError("empty column", path=path, line=number, expected="a token and a tag", got=repr(line))
        if bio and tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) == 2):
            raise DataError("malformed tag", path=path, line=number, expected="O, B-type or I-type", got=repr(tag))
        words.append(word)
        tags.append(tag)
    if words:
        yield TaggedSentence(tuple(words), tuple(tags))
