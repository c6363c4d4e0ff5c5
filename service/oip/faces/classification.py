"""The best classes of an output as texts `value:index`, best first.

Source: the classification extension of the protocol,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_CLASSES = 2**31 - 1
_SUPPORTED = frozenset(
    ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
)


def can_classify(datatype: str) -> bool:
    """Whether values of a type have an order and a text."""
    return datatype in _SUPPORTED


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
        # Descending and stable: the reverse of an ascending order of the reversed row.
        order = num_values - 1 - np.argsort(row[::-1], kind="stable")[::-1]
        if row.dtype.kind == "f":
            missing = np.isnan(row[order])
            order = np.concatenate((order[~missing], order[missing]))
        for j, index in enumerate(order[:kept]):
            texts[i, j] = f"{_text(row[index])}:{index}".encode()
    return texts.reshape(*outer, kept)


def _text(value: Any) -> str:
    """A value as the reference server writes it: floats with six digits."""
    return f"{float(value):f}" if np.issubdtype(type(value), np.floating) else str(int(value))
