"""Texts that come as tensors of bytes."""

from typing import Any

import numpy.typing as npt

from service.oip.errors import OipError


def read_words(name: str, array: npt.NDArray[Any]) -> list[str]:
    """Read the texts of an input (T,) of the type BYTES.

    Raises:
        OipError: One is not UTF-8.
    """
    try:
        return [element.decode() for element in array.tolist()]
    except UnicodeDecodeError:
        raise OipError("invalid_argument", f"input '{name}' must have texts in UTF-8") from None
