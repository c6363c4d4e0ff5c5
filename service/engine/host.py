"""States in host memory: rows of slabs, for sessions that have no slot and for marks.

One object a state would cost the allocator a tenth more than the state; rows of slabs cost nothing beside it. A slab
that nobody needs any more is given back to the system.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import StateSpec, storage
from service.engine.interface import StateTensors
from service.engine.slots import INITIAL_SLOT
from service.errors import InvalidInput

SLAB_ROWS: Final = 256
HostRow = int  # names a row from `copy_out`, `duplicate` or `put` to `free`


class StateRows(Protocol):
    """The rows of the state pools; `service.runtime.runner.Runner` is one."""

    def read_rows(self, rows: Sequence[int]) -> Mapping[str, npt.NDArray[Any]]:
        """Copy rows out: by state name, (len(rows), *shape)."""

    def write_rows(self, rows: Sequence[int], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set rows from the same."""


class HostStates:
    """Keeps states outside the pools: a row is its tensors one after the other, as they lie in memory.

    Args:
        rows: The pools.
        states: All states of the model; those without a pool are left out.
    """

    def __init__(self, rows: StateRows, states: Sequence[StateSpec]) -> None:
        self._rows = rows
        self._specs = [state for state in states if state.pool_input is not None]
        sizes = [int(np.prod(state.shape)) * np.dtype(storage(state.dtype)).itemsize for state in self._specs]
        self._ends: list[int] = np.cumsum(sizes).tolist()
        self.num_bytes: int = sum(sizes)  # of one state
        self._slabs: dict[int, npt.NDArray[np.uint8]] = {}
        self._free: dict[int, list[int]] = {}  # by slab: its rows that nobody has; a full slab has no entry
        self._next_slab = 0
        self.num_held = 0

    @property
    def num_slabs(self) -> int:
        """Slabs that take memory."""
        return len(self._slabs)

    # --------------------------------------------------------------------------------------- between pools and slabs

    def copy_out(self, rows: Sequence[int]) -> list[HostRow]:
        """Copy rows of the pools into host rows."""
        tensors = self._rows.read_rows(rows)
        parts = [np.ascontiguousarray(tensors[spec.name]).reshape(len(rows), -1).view(np.uint8) for spec in self._specs]
        return [self._store(row) for row in np.concatenate(parts, axis=1)]

    def copy_in(self, rows: Sequence[int], hosts: Sequence[HostRow]) -> None:
        """Set rows of the pools, each once, from host rows, which stay."""
        self._rows.write_rows(rows, self._split(np.stack([self._row(host) for host in hosts])))

    def tensors_of(self, row: int) -> StateTensors:
        """Copy the tensors of one row of the pools, (*shape) each."""
        return {name: array[0] for name, array in self._rows.read_rows([row]).items()}

    # ------------------------------------------------------------------------------------------------- host rows alone

    def duplicate(self, host: HostRow) -> HostRow:
        """Copy a host row."""
        return self._store(self._row(host))

    def tensors(self, host: HostRow) -> StateTensors:
        """Copy the tensors of a host row, (*shape) each."""
        return {name: array[0].copy() for name, array in self._split(self._row(host)[None]).items()}

    def put(self, given: StateTensors) -> HostRow:
        """Keep a state; what is not given is as in the initial state.

        Raises:
            InvalidInput: A name that no state has, or another shape or type than it has.
        """
        if unknown := given.keys() - {spec.name for spec in self._specs}:
            raise InvalidInput("initial_state", f"some of {[s.name for s in self._specs]}", str(sorted(unknown)))
        tensors = dict(self.tensors_of(INITIAL_SLOT))
        for spec in self._specs:
            array = given.get(spec.name)
            if array is None:
                continue
            if array.shape != spec.shape or array.dtype != storage(spec.dtype):
                expected, got = f"{spec.dtype} {list(spec.shape)}", f"{array.dtype} {list(array.shape)}"
                raise InvalidInput(f"initial_state.{spec.name}", expected, got)
            tensors[spec.name] = array
        flat = [np.ascontiguousarray(tensors[spec.name]).reshape(-1).view(np.uint8) for spec in self._specs]
        return self._store(np.concatenate(flat))

    def free(self, host: HostRow) -> None:
        """Give a host row back."""
        number, row = divmod(host, SLAB_ROWS)
        free = self._free.setdefault(number, [])
        free.append(row)
        self.num_held -= 1
        if len(free) == SLAB_ROWS:
            del self._slabs[number], self._free[number]

    def _store(self, values: npt.NDArray[np.uint8]) -> HostRow:
        """Copy (num_bytes,) into a free row."""
        number = next(iter(self._free), None)
        if number is None:
            number = self._next_slab
            self._next_slab += 1
            # Pages that are not written to yet take no memory.
            self._slabs[number] = np.empty((SLAB_ROWS, self.num_bytes), dtype=np.uint8)
            self._free[number] = list(range(SLAB_ROWS - 1, -1, -1))
        row = self._free[number].pop()
        if not self._free[number]:
            del self._free[number]
        self._slabs[number][row] = values
        self.num_held += 1
        return number * SLAB_ROWS + row

    def _row(self, host: HostRow) -> npt.NDArray[np.uint8]:
        number, row = divmod(host, SLAB_ROWS)
        values: npt.NDArray[np.uint8] = self._slabs[number][row]
        return values

    def _split(self, rows: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """(n, num_bytes) to (n, *shape) by name."""
        tensors, start = {}, 0
        for spec, end in zip(self._specs, self._ends, strict=True):
            part = np.ascontiguousarray(rows[:, start:end]).view(storage(spec.dtype))
            tensors[spec.name] = part.reshape(len(rows), *spec.shape)
            start = end
        return tensors
