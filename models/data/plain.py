"""Plain text for language models."""

from pathlib import Path
from typing import Literal

from models.data.errors import DataError
from models.data.lines import read_lines

Boundary = Literal["line", "file"]


def read_plain(path: Path, boundary: Boundary, keep_blank: bool = True) -> list[str]:
    """Read the texts of a file: each is read after `<s>` and ended by `</s>`.

    Args:
        path: The file, plain or gzip.
        boundary: line: each line is a text; file: the whole file is one, line feeds included.
        keep_blank: With boundary line, whether blank lines count as (empty) texts, as is usual for WikiText.

    Raises:
        DataError: The file holds no text.
    """
    lines = [line for _, line in read_lines(path)]
    texts = ["\n".join(lines) + "\n"] if boundary == "file" else [t for t in lines if keep_blank or t.strip()]
    if not any(text.strip() for text in texts):
        raise DataError("no text", path=path, expected="at least one line that is not blank", got="none")
    return texts
