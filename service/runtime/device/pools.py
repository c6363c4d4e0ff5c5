"""Pools that lie on a device: rows move by their addresses, whole pools only at load.

Where a provider cannot update a pool in place there are two of each, and a graph reads the one and writes the other:
right, and slow, since every run then copies the pool.
"""

import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import storage
from service.runtime.device.gate import GATE
from service.runtime.device.memory import Block, DeviceMemory, Transfer
from service.runtime.pools import PoolSize
from service.runtime.values import element_type

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
_MOST_STAGED: Final = 2**22  # bytes of page-locked memory that rows go through


class _Pool:
    """One pool: its memory and what a row of it is."""

    def __init__(self, size: PoolSize, memory: DeviceMemory) -> None:
        self.shape, self.dtype = size.shape, np.dtype(storage(size.dtype))
        self.element = element_type(size.dtype)
        self.row_shape = size.shape[1:]
        self.row_bytes = int(np.prod(self.row_shape)) * self.dtype.itemsize
        self.blocks: list[Block] = []
        self.turn = 0  # which block holds the states
        self.add(memory)

    def add(self, memory: DeviceMemory) -> None:
        """Give it one more block."""
        self.blocks.append(memory.allocate(self.num_bytes))

    @property
    def num_bytes(self) -> int:
        """Of one block."""
        return self.shape[0] * self.row_bytes

    @property
    def address(self) -> int:
        """Of the states."""
        return self.blocks[self.turn].address

    @property
    def next(self) -> int:
        """Where a run leaves the states: an address."""
        return self.blocks[(self.turn + 1) % len(self.blocks)].address


class DevicePools:
    """See the module docstring.

    Rows may be read and written while graphs run that have nothing to do with them.

    Args:
        sizes: Of the pools.
        memory: Where they lie.
    """

    def __init__(self, sizes: Iterable[PoolSize], memory: DeviceMemory) -> None:
        self._memory = memory
        with GATE.shared():
            self._pools = {size.name: _Pool(size, memory) for size in sizes}
            self._staging = memory.pinned(0)
        self._lock = threading.RLock()
        self.in_place = True

    @property
    def names(self) -> Collection[str]:
        """Which there are."""
        return self._pools.keys()

    @property
    def indexes_rows(self) -> bool:
        """Only the rows that are asked for move."""
        return True

    @property
    def num_bytes(self) -> int:
        """Of all pools on the device."""
        return sum(len(pool.blocks) * pool.num_bytes for pool in self._pools.values())

    @property
    def host_bytes(self) -> int:
        """Of page-locked memory that rows go through."""
        return len(self._staging)

    def double(self) -> None:
        """From now on let graphs read one buffer and write another."""
        with GATE.shared():
            for pool in self._pools.values():
                pool.add(self._memory)
        self.in_place = False

    @property
    def turning(self) -> threading.RLock:
        """To be held around a run and its `turn` where graphs do not update in place: no row may change meanwhile."""
        return self._lock

    def turns(self, read: Iterable[str]) -> tuple[int, ...]:
        """What bindings to some pools depend on."""
        return () if self.in_place else tuple(self._pools[name].turn for name in read)

    def turn(self, updated: Iterable[str]) -> None:
        """Count what a run has written as the states from now on."""
        if self.in_place:
            return
        for name in updated:
            pool = self._pools[name]
            pool.turn = (pool.turn + 1) % len(pool.blocks)

    def bind(self, binding: ort.IOBinding, read: Iterable[str], updated: Mapping[str, str]) -> None:
        """Bind pools as inputs, and as the outputs with their updates."""
        kind, device_id = self._memory.name, self._memory.device_id
        for name in read:
            pool = self._pools[name]
            binding.bind_input(name, kind, device_id, pool.element, pool.shape, pool.address)
        for name, out in updated.items():
            pool = self._pools[name]
            binding.bind_output(out, kind, device_id, pool.element, pool.shape, pool.next)

    def read(self, pools: Mapping[str, str], rows: Sequence[int]) -> dict[str, Array]:
        """Copy rows out: by what `pools` calls it, (len(rows), ...)."""
        chosen = {name: self._pools[pool] for name, pool in pools.items()}
        results = {name: np.empty((len(rows), *pool.row_shape), pool.dtype) for name, pool in chosen.items()}
        with self._lock, GATE.shared():
            for piece in self._pieces(chosen.values(), rows):
                staged, transfers = self._stage(chosen, rows[piece])
                self._memory.download(transfers)
                for name, array in staged.items():
                    results[name][piece] = array
        return results

    def write(self, rows: Sequence[int], values: Mapping[str, Array]) -> None:
        """Set rows, each given once: by pool, (len(rows), ...)."""
        chosen = {name: self._pools[name] for name in values}
        whole = {
            name: np.broadcast_to(np.asarray(values[name]), (len(rows), *pool.row_shape))
            for name, pool in chosen.items()
        }
        with self._lock, GATE.shared():
            for piece in self._pieces(chosen.values(), rows):
                staged, transfers = self._stage(chosen, rows[piece])
                for name, array in staged.items():
                    array[...] = whole[name][piece]
                self._memory.upload(transfers)

    def whole(self, pool: str) -> Array:
        """Copy a pool out."""
        with self._lock, GATE.shared():
            array = np.empty(self._pools[pool].shape, self._pools[pool].dtype)
            self._memory.download((Transfer.of(self._pools[pool].address, array),))
        return array

    def replace(self, pool: str, value: Array) -> None:
        """Set all of a pool."""
        with self._lock, GATE.shared():
            array = np.ascontiguousarray(np.broadcast_to(value, self._pools[pool].shape), self._pools[pool].dtype)
            self._memory.upload((Transfer.of(self._pools[pool].address, array),))

    def _pieces(self, pools: Iterable[_Pool], rows: Sequence[int]) -> list[slice]:
        """Rows in pieces that fit into the staging memory, which grows up to its bound."""
        row_bytes = max(sum(pool.row_bytes for pool in pools), 1)
        count = max(min(_MOST_STAGED // row_bytes, len(rows)), 1)
        if len(self._staging) < count * row_bytes:
            self._staging = self._memory.pinned(1 << (count * row_bytes - 1).bit_length())
        return [slice(start, start + count) for start in range(0, len(rows), count)]

    def _stage(self, pools: Mapping[str, _Pool], rows: Sequence[int]) -> tuple[dict[str, Array], list[Transfer]]:
        """Arrays (len(rows), ...) in the staging memory, and what moves rows of pools there or back."""
        staged: dict[str, Array] = {}
        transfers: list[Transfer] = []
        runs = _neighbours(rows)
        most = min((pool.shape[0] for pool in pools.values()), default=0)
        if pools and not all(row >= 0 and row + count <= most for row, count in runs):
            raise IndexError(f"rows: expected numbers from 0 to {most - 1}, got {list(rows)}")
        start = 0
        for name, pool in pools.items():
            end = start + len(rows) * pool.row_bytes
            space = self._staging[start:end]
            staged[name] = space.view(pool.dtype).reshape(len(rows), *pool.row_shape)
            at = space.ctypes.data
            for row, count in runs if pool.row_bytes else ():
                num_bytes = count * pool.row_bytes
                transfers.append(Transfer(pool.address + row * pool.row_bytes, at, num_bytes))
                at += num_bytes
            start = end
        return staged, transfers


def _neighbours(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Rows that follow one another, as the first and how many."""
    runs: list[tuple[int, int]] = []
    for row in map(int, rows):
        if runs and row == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((row, 1))
    return runs
