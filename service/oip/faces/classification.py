"""The best classes of an output as texts `value:index`, best first.

Source: the classification extension of the protocol,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from service.oip.codec import MAX_TEXTS
from service.oip.errors import OipError

MAX_CLASSES = 2**31 - 1
_SUPPORTED = frozenset(
    ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
)


def can_classify(datatype: str) -> bool:
    """Whether values of a type have an order and a text."""
    return datatype in _SUPPORTED


def check_num_classes(name: str, num_classes: int, num_values: int, num_rows: int) -> None:
    """See whether the classes to tell are few enough texts: each is an object to make, while the event loop waits.

    Args:
        name: Of the output.
        num_classes: To tell of each row; all where there are fewer.
        num_values: Of each row.
        num_rows: How many there are.

    Raises:
        OipError: They are more than MAX_TEXTS.
    """
    if (count := min(num_classes, num_values) * num_rows) > MAX_TEXTS:
        raise OipError(
            "invalid_argument",
            f"output '{name}' classification must be of at most {MAX_TEXTS} classes in all, got {count}",
        )


def classify(array: npt.NDArray[Any], num_classes: int, num_outer: int) -> npt.NDArray[np.object_]:
    """Find the best classes of each row.

    Args:
        array: (..., *dims of a row).
        num_classes: How many to tell; all where there are fewer.
        num_outer: Dimensions before those of a row.

    Returns:
        (..., classes), each a text in bytes; of equal values the first one comes first, and what is no number last.
    """
    outer = array.shape[:num_outer]
    num_values = int(np.prod(array.shape[num_outer:], dtype=np.int64))
    rows = array.reshape(-1, num_values) if num_values else array.reshape(int(np.prod(outer, dtype=np.int64)), 0)
    kept = min(num_classes, num_values)
    texts = np.empty((len(rows), kept), np.object_)
    for i, row in enumerate(rows):
        best = _best(row, kept)
        texts[i] = _texts(row[best], best)
    return texts.reshape(*outer, kept)


def _best(row: npt.NDArray[Any], count: int) -> npt.NDArray[np.intp]:
    """Where the largest values of a row are, best first; without an order of the whole row, which may be long."""
    places = np.arange(len(row)) if count == len(row) else _chosen(row, count)
    chosen = row[places]
    # Descending and stable: the reverse of an ascending order of the reversed row.
    order = len(chosen) - 1 - np.argsort(chosen[::-1], kind="stable")[::-1]
    if row.dtype.kind == "f":
        missing = np.isnan(chosen[order])
        order = np.concatenate((order[~missing], order[missing]))
    best: npt.NDArray[np.intp] = places[order]
    return best


def _chosen(row: npt.NDArray[Any], count: int) -> npt.NDArray[np.intp]:
    """Where the largest values of a row are, in their order in the row; of equal ones the first."""
    if not count:
        return np.empty(0, np.intp)
    num_numbers = len(row) - (int(np.isnan(row).sum()) if row.dtype.kind == "f" else 0)
    if count >= num_numbers:  # all of the numbers, and what is none
        chosen = ~np.isnan(row)
        chosen[np.flatnonzero(~chosen)[: count - num_numbers]] = True
        return np.flatnonzero(chosen)
    least = np.partition(row, num_numbers - count)[num_numbers - count]  # which puts what is no number last
    chosen = row > least
    chosen[np.flatnonzero(row == least)[: count - int(chosen.sum())]] = True
    return np.flatnonzero(chosen)


def _texts(values: npt.NDArray[Any], places: npt.NDArray[np.intp]) -> list[bytes]:
    """Values and places as the reference server writes them: floats with six digits."""
    pairs = zip(values.tolist(), places.tolist(), strict=True)
    if values.dtype.kind == "f":
        return [b"%f:%d" % pair for pair in pairs]
    return [b"%d:%d" % pair for pair in pairs]
