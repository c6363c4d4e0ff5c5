"""What a file says, as it can be printed on one line of a reason."""

from typing import Final

_LONGEST: Final = 80
_LONGEST_LINE: Final = 300


def quote(value: object) -> str:
    """A name or a number out of a file: quoted, escaped and cut."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def one_line(text: str) -> str:
    """A library's message as one printable line: the first that says something."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 3] + "..."
