"""The state of one row as bytes, the form in which states lie in host memory."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from export.manifest import StateSpec
from service.engine.interface import StateTensors
from service.engine.slots import INITIAL_SLOT
from service.errors import InvalidInput


class StateRows(Protocol):
    """The rows of the state pools; `service.runner.Runner` is one."""

    def read_rows(self, rows: Sequence[int]) -> Mapping[str, npt.NDArray[Any]]:
        """Copy rows out: by state name, (len(rows), *shape)."""

    def write_rows(self, rows: Sequence[int], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set rows from the same."""


class StatePacker:
    """Packs rows: the tensors one after the other, as they lie in memory.

    Args:
        rows: The pools.
        states: All states of the model; those without a pool are left out.
    """

    def __init__(self, rows: StateRows, states: Sequence[StateSpec]) -> None:
        self._rows = rows
        self._specs = [state for state in states if state.pool_input is not None]
        sizes = [int(np.prod(state.shape)) * np.dtype(state.dtype).itemsize for state in self._specs]
        self._ends = np.cumsum(sizes).tolist()
        self.num_bytes: int = sum(sizes)  # of one row

    def pack(self, rows: Sequence[int]) -> list[bytes]:
        """Copy rows out."""
        tensors = self._rows.read_rows(rows)
        parts = [np.ascontiguousarray(tensors[spec.name]).reshape(len(rows), -1).view(np.uint8) for spec in self._specs]
        return [row.tobytes() for row in np.concatenate(parts, axis=1)]

    def unpack(self, rows: Sequence[int], packed: Sequence[bytes]) -> None:
        """Set rows, each once, from what `pack` gave."""
        joined = np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(len(rows), self.num_bytes)
        self._rows.write_rows(rows, self._split(joined))

    def tensors(self, packed: bytes | None) -> StateTensors:
        """The tensors of one packed row, (*shape) each; None is the initial state."""
        row = self.pack([INITIAL_SLOT])[0] if packed is None else packed
        split = self._split(np.frombuffer(row, dtype=np.uint8).reshape(1, -1))
        return {name: array[0].copy() for name, array in split.items()}

    def from_tensors(self, given: StateTensors) -> bytes:
        """Pack one row; what is not given is as in the initial state.

        Raises:
            InvalidInput: A name that no state has, or another shape or type than it has.
        """
        if unknown := given.keys() - {spec.name for spec in self._specs}:
            raise InvalidInput("initial_state", f"some of {[s.name for s in self._specs]}", str(sorted(unknown)))
        tensors = dict(self.tensors(None))
        for spec in self._specs:
            array = given.get(spec.name)
            if array is None:
                continue
            if array.shape != spec.shape or array.dtype != spec.dtype:
                expected, got = f"{spec.dtype} {list(spec.shape)}", f"{array.dtype} {list(array.shape)}"
                raise InvalidInput(f"initial_state.{spec.name}", expected, got)
            tensors[spec.name] = array
        return b"".join(np.ascontiguousarray(tensors[spec.name]).tobytes() for spec in self._specs)

    def _split(self, rows: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """(n, num_bytes) to (n, *shape) by name."""
        tensors, start = {}, 0
        for spec, end in zip(self._specs, self._ends, strict=True):
            part = np.ascontiguousarray(rows[:, start:end]).view(spec.dtype)
            tensors[spec.name] = part.reshape(len(rows), *spec.shape)
            start = end
        return tensors
