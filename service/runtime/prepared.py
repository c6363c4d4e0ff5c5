"""Bindings that are kept for batches like those that were run before, within bounds."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, Final, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]
MOST_BYTES_EACH: Final = 2**20  # of buffers; what moves more gains nothing by having them ready
_MOST_BYTES: Final = 2**24
_MOST: Final = 256


class Prepared(NamedTuple):
    """A binding with buffers of its own, for batches of one shape."""

    binding: Any
    inputs: Mapping[str, Array]
    outputs: dict[str, Array]

    @property
    def num_bytes(self) -> int:
        """Of its buffers."""
        return sum(array.nbytes for array in (*self.inputs.values(), *self.outputs.values()))


class Shelf:
    """The bindings of one lane, by what must be equal for one to fit; the least recently used go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Prepared] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: Hashable) -> Prepared | None:
        """The one for this key, which has now been used last."""
        prepared = self._kept.get(key)
        if prepared is not None:
            self._kept.move_to_end(key)
        return prepared

    def put(self, key: Hashable, prepared: Prepared) -> None:
        """Keep one, and let go of others until all fit."""
        self._kept[key] = prepared
        self._num_bytes += prepared.num_bytes
        while len(self._kept) > _MOST or self._num_bytes > _MOST_BYTES:
            _, old = self._kept.popitem(last=False)
            self._num_bytes -= old.num_bytes
