"""Lines of text files, plain or gzip, and the fingerprint of a file."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from models.data.errors import DataError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file, without their line ends; `.gz` is read transparently.

    Only LF (or CR LF) ends a line: U+2028 and its like are text.

    Args:
        path: The file; a byte order mark at its start is left out.

    Yields:
        Line number, from 1, and text.

    Raises:
        DataError: The file cannot be opened, is not gzip although named so, or is not UTF-8.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        "not UTF-8",
                        path=path,
                        line=number,
                        expected="UTF-8 text",
                        got=f"byte 0x{raw[error.start]:02x} at column {error.start + 1}",
                    ) from None
                yield number, text.removesuffix("\n").removesuffix("\r")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError("damaged gzip file", path=path, expected="complete gzip data", got=str(error)) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=path) from None


def sha256(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, as it lies (compressed if it is), in hexadecimal.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=path) from None
