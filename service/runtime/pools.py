"""The state and memory pools of a bundle, and how graphs are bound to them; those that lie in host memory."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from export.bundle import load_initial_states
from export.manifest import DType, Manifest, MemorySpec, StateSpec, storage
from service.runtime.probe import NUM_ROWS
from service.runtime.providers import CPU
from service.runtime.values import make_value

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = npt.NDArray[Any]
INITIAL_ROW: Final = 0  # of the state pools


class PoolSize:
    """How large a pool is: `rows` of `shape` each."""

    def __init__(self, name: str, rows: int, shape: tuple[int, ...], dtype: DType) -> None:
        self.name: Final = name
        self.shape: Final = (rows, *shape)
        self.dtype: Final = dtype


class Pools(Protocol):
    """All pools of a bundle, by name of the graphs' inputs."""

    @property
    def names(self) -> Collection[str]:
        """Which there are."""

    @property
    def in_place(self) -> bool:
        """Whether a graph's input and output are one buffer, whose address stays."""

    @property
    def indexes_rows(self) -> bool:
        """Whether rows are read and written where they lie, and not by way of the whole pool."""

    def bind(self, binding: ort.IOBinding, read: Iterable[str], updated: Mapping[str, str]) -> None:
        """Bind pools as inputs, and as the outputs with their updates."""

    def read(self, pools: Mapping[str, str], rows: Sequence[int]) -> dict[str, Array]:
        """Copy rows out: by what `pools` calls it, (len(rows), ...)."""

    def write(self, rows: Sequence[int], values: Mapping[str, Array]) -> None:
        """Set rows, each given once: by pool, (len(rows), ...)."""

    def whole(self, pool: str) -> Array:
        """Copy a pool out."""

    def replace(self, pool: str, value: Array) -> None:
        """Set all of a pool."""


class HostPools:
    """Pools where ONNX Runtime's CPU provider uses them as they lie."""

    in_place = True

    def __init__(self, sizes: Iterable[PoolSize]) -> None:
        self._values: dict[str, ort.OrtValue] = {}
        # Mostly a pool is a NumPy array, whose rows can be indexed.
        self._arrays: dict[str, Array] = {}
        for size in sizes:
            zeros = np.zeros(size.shape, dtype=storage(size.dtype))
            value = self._values[size.name] = make_value(zeros, size.dtype, CPU)
            if value.data_ptr() == zeros.ctypes.data:
                self._arrays[size.name] = zeros

    @property
    def names(self) -> Collection[str]:
        """Which there are."""
        return self._values.keys()

    @property
    def indexes_rows(self) -> bool:
        """Whether rows are read and written where they lie, and not by way of the whole pool."""
        return len(self._arrays) == len(self._values)

    def bind(self, binding: ort.IOBinding, read: Iterable[str], updated: Mapping[str, str]) -> None:
        """Bind pools as inputs, and as the outputs with their updates: the same buffers."""
        for name in read:
            binding.bind_ortvalue_input(name, self._values[name])
        for name, out in updated.items():
            binding.bind_ortvalue_output(out, self._values[name])

    def read(self, pools: Mapping[str, str], rows: Sequence[int]) -> dict[str, Array]:
        """Copy rows out: by what `pools` calls it, (len(rows), ...)."""
        index = np.asarray(rows, dtype=np.int64)
        return {name: self._array(pool)[index] for name, pool in pools.items()}

    def write(self, rows: Sequence[int], values: Mapping[str, Array]) -> None:
        """Set rows, each given once: by pool, (len(rows), ...)."""
        index = np.asarray(rows, dtype=np.int64)
        for pool, value in values.items():
            array = self._array(pool)
            array[index] = value
            if pool not in self._arrays:
                self._values[pool].update_inplace(array)

    def whole(self, pool: str) -> Array:
        """Copy a pool out."""
        return self._array(pool).copy()

    def replace(self, pool: str, value: Array) -> None:
        """Set all of a pool."""
        if pool in self._arrays:
            self._arrays[pool][...] = value
        else:
            self._values[pool].update_inplace(value)

    def _array(self, pool: str) -> Array:
        """The pool itself where its rows can be indexed, a copy elsewhere."""
        array = self._arrays.get(pool)
        return np.array(self._values[pool].numpy()) if array is None else array


def pool_sizes(manifest: Manifest, num_slots: int, num_memory_rows: int) -> list[PoolSize]:
    """What pools a bundle needs; each has rows enough for the proof."""
    sizes: list[tuple[StateSpec | MemorySpec, int]] = [(state, num_slots) for state in manifest.states]
    sizes += [(memory, num_memory_rows) for memory in manifest.memories]
    return [
        PoolSize(spec.pool_input, max(rows, NUM_ROWS), spec.shape, spec.dtype)
        for spec, rows in sizes
        if spec.pool_input is not None
    ]


def write_initial_states(folder: Path, manifest: Manifest, pools: Pools) -> None:
    """Write the initial states that a bundle keeps in a file; the others are zeros."""
    names = {state.name: state.pool_input for state in manifest.states}
    if initial := load_initial_states(folder, manifest):
        pools.write([INITIAL_ROW], {str(names[name]): array[None] for name, array in initial.items()})
