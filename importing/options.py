"""`--state IN=OUT[,axis=A][,init=VALUE|FILE.npy]` and `--example NAME=VALUE`, as they are written."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from importing.errors import ImportRefused
from importing.signature import Array
from importing.states.pairs import StateOption

_FORM: Final = "IN=OUT[,axis=A][,init=VALUE|FILE.npy]"
_AXES: Final = 64  # no tensor has more


def parse_state(text: str) -> StateOption:
    """Read one `--state`.

    Raises:
        ImportRefused: It is not of that form, or its file is not one array.
    """
    first, *rest = text.split(",")
    given, equals, returned = first.partition("=")
    if not (equals and given and returned):
        raise ImportRefused(f"--state: expected {_FORM}, got {text!r}")
    axis: int | None = None
    initial: float | Array | None = None
    for part in rest:
        key, _, value = part.partition("=")
        if key == "axis" and value.isascii() and value.isdigit() and int(value) < _AXES:
            axis = int(value)
        elif key == "init" and value:
            initial = _initial(value)
        else:
            raise ImportRefused(f"--state: expected {_FORM}, got {part!r} in {text!r}")
    return StateOption(given, returned, axis, initial)


def parse_examples(texts: Sequence[str]) -> dict[str, float]:
    """Read all `--example`, by name.

    Raises:
        ImportRefused: One is not NAME=NUMBER, its number is not finite, or a name is there twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        number = _number(value)
        if not name or number is None or not math.isfinite(number):
            raise ImportRefused(f"--example: expected NAME=NUMBER, got {text!r}")
        if name in found:
            raise ImportRefused(f"--example: expected each name once, got {name} twice")
        found[name] = number
    return found


def _initial(value: str) -> float | Array:
    number = _number(value)
    if number is not None:
        return number
    path = Path(value)
    if path.suffix != ".npy":
        raise ImportRefused(f"--state: init: expected a number or a .npy file, got {value!r}")
    try:
        # Never unpickled, and never larger than it says before it is read.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImportRefused(f"--state: init: expected a .npy file of plain numbers, got {value!r}: {error}") from None
    return np.array(mapped)


def _number(text: str) -> float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return {"true": 1, "false": 0}.get(text.lower())
