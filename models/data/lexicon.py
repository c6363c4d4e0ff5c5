"""Pronunciation lexicons: letters to phonemes.

A lexicon is read as `Pair`s: the word, and its pronunciations as space-separated phonemes, the usual one first.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Literal

from models.data.errors import DataError
from models.data.examples import Pair
from models.data.lines import read_lines

Stress = Literal["keep", "remove"]
GRUUT_PACKAGE = "gruut-lang-en"
_VARIANT = re.compile(r"(.+)\(([0-9]+)\)")
# CMUdict marks stress by a digit after a vowel (AH0), gruut by IPA marks before it.
_CMUDICT_PHONEME = re.compile(r"[A-Z]+[0-2]?")
_IPA_STRESS = str.maketrans("", "", "ˈˌ")


def read_cmudict(path: Path, stress: Stress = "keep") -> list[Pair]:
    """Read a lexicon in CMUdict format: `word PH ON EMES # comment`, variants as `word(2)`.

    Source: https://github.com/cmusphinx/cmudict

    Args:
        path: The file, plain or gzip. Lines that begin with `;;;` are comments.
        stress: Whether the digits after vowels stay.

    Raises:
        DataError: A malformed line, with its number.
    """

    def entries() -> Iterator[tuple[str, tuple[str, ...]]]:
        for number, line in read_lines(path):
            if line.startswith(";;;") or not line.strip():
                continue
            word, *phonemes = line.split("#", 1)[0].split() or [""]
            wrong = [p for p in phonemes if not _CMUDICT_PHONEME.fullmatch(p)]
            if not word or not phonemes or wrong:
                raise DataError(
                    "malformed entry",
                    path=path,
                    line=number,
                    expected="a word and ARPAbet phonemes such as AH0",
                    got=repr(line),
                )
            variant = _VARIANT.fullmatch(word)
            if stress == "remove":
                phonemes = [p.rstrip("012") for p in phonemes]
            yield (variant[1] if variant else word).lower(), tuple(phonemes)

    return _group(entries())


def gruut_lexicon_path() -> Path:
    """Find the SQLite lexicon inside the installed package gruut-lang-en.

    Raises:
        DataError: The package is not installed.
    """
    try:
        return Path(str(resources.files("gruut_lang_en"))) / "lexicon.db"
    except ModuleNotFoundError:
        raise DataError(f"the lexicon needs the package {GRUUT_PACKAGE}, which is not installed") from None


def gruut_version() -> str:
    """The version of the installed package gruut-lang-en."""
    return metadata.version(GRUUT_PACKAGE)


def read_gruut(path: Path | None = None, stress: Stress = "keep") -> list[Pair]:
    """Read the English lexicon of gruut-lang-en (IPA).

    Args:
        path: The SQLite file; None is the installed package's.
        stress: Whether the marks of primary and secondary stress stay.

    Raises:
        DataError: No such table, or an empty field.
    """

    def entries() -> Iterator[tuple[str, tuple[str, ...]]]:
        # Ordered by variant: the first is the usual one.
        for row, word, text in _query(
            found, "SELECT id, word, phonemes FROM word_phonemes ORDER BY word, pron_order, id"
        ):
            phonemes = (text.translate(_IPA_STRESS) if stress == "remove" else text).split()
            if not word or not phonemes:
                raise DataError(
                    f"word_phonemes row {row}", path=found, expected="a word and phonemes", got=f"{word!r}, {text!r}"
                )
            yield word.lower(), tuple(phonemes)

    found = path or gruut_lexicon_path()
    return _group(entries())


def _query(path: Path, statement: str) -> list[tuple[int, str, str]]:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DataError(
            "not a gruut lexicon", path=path, expected="an SQLite file of gruut-lang-en", got=str(error)
        ) from None


def _group(entries: Iterable[tuple[str, tuple[str, ...]]]) -> list[Pair]:
    """Gather the distinct pronunciations of each word, in their order; words in the order of first sight."""
    words: dict[str, dict[str, None]] = {}
    for word, phonemes in entries:
        words.setdefault(word, {})[" ".join(phonemes)] = None
    return [Pair(word, tuple(variants)) for word, variants in words.items()]
