"""Memory that graphs run in and the processor does not reach: blocks of it, and copies to it and back.

`HostMemory` is such memory only in name, ordinary memory that is treated as if it were far away. With it all that
serves a GPU runs on a machine that has none.
"""

import ctypes
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
ALIGNMENT: Final = 256  # bytes, of whatever a kernel is given; as cudaMalloc has it


class Block(NamedTuple):
    """Memory of the device, for as long as somebody holds this."""

    address: int
    num_bytes: int
    owner: Any


class Transfer(NamedTuple):
    """A copy between the device and host memory that somebody else holds."""

    device: int  # address
    host: int  # address
    num_bytes: int

    @classmethod
    def of(cls, device: int, array: npt.NDArray[Any]) -> "Transfer":
        """To or from an array, which must be contiguous and outlive the copy."""
        assert array.flags.c_contiguous
        return cls(device, array.ctypes.data, array.nbytes)


class DeviceMemory(Protocol):
    """See the module docstring. Safe from any thread."""

    @property
    def name(self) -> str:
        """What bindings call the kind of device."""

    @property
    def device_id(self) -> int:
        """Which of that kind."""

    @property
    def captures(self) -> bool:
        """Whether runs on the device may be captured and replayed."""

    def allocate(self, num_bytes: int) -> Block:
        """Zeros on the device, aligned to ALIGNMENT.

        Raises:
            RunnerError: There is no room.
        """

    def pinned(self, num_bytes: int) -> Bytes:
        """Host memory from and to which copies are quickest, (num_bytes,)."""

    def upload(self, transfers: Iterable[Transfer]) -> None:
        """Copy to the device; when this returns, all of it is there.

        Raises:
            RunnerError: The device says no.
        """

    def download(self, transfers: Iterable[Transfer]) -> None:
        """Copy from the device; as `upload`."""

    def free_bytes(self) -> int | None:
        """Bytes of the device that are free; None: no telling."""


class HostMemory:
    """Arrays that nothing but copies and graphs on the CPU provider reaches."""

    name = "cpu"
    device_id = 0
    captures = False

    def allocate(self, num_bytes: int) -> Block:
        """Zeros in an array of their own."""
        array = np.zeros(num_bytes + ALIGNMENT, dtype=np.uint8)
        return Block(-(-array.ctypes.data // ALIGNMENT) * ALIGNMENT, num_bytes, array)

    def pinned(self, num_bytes: int) -> Bytes:
        """Any host memory is as good."""
        return np.zeros(num_bytes, dtype=np.uint8)

    def upload(self, transfers: Iterable[Transfer]) -> None:
        """Copy at once."""
        for device, host, num_bytes in transfers:
            ctypes.memmove(device, host, num_bytes)

    def download(self, transfers: Iterable[Transfer]) -> None:
        """Copy at once."""
        for device, host, num_bytes in transfers:
            ctypes.memmove(host, device, num_bytes)

    def free_bytes(self) -> int | None:
        """Nobody counts."""
        return None
