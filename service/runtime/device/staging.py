"""What the inputs and outputs of one lane go through: a block on the device for each, and page-locked host memory."""

from typing import Final

from service.runtime.device.memory import Block, Bytes, DeviceMemory

_LEAST: Final = 2**16  # bytes of a buffer, which from there on doubles


class Staging:
    """Buffers that all batches of a lane share, the small ones the beginnings of them.

    A buffer that becomes too small is followed by a larger one; whoever has bound the old one keeps it alive.

    Args:
        memory: Of the device.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._inputs = self._outputs = Block(0, 0, None)
        self._sent = self._got = memory.pinned(0)

    def inputs(self, num_bytes: int) -> tuple[Block, Bytes]:
        """A block for inputs, and the host memory that they are written to first."""
        if self._inputs.num_bytes < num_bytes:
            size = _rounded(num_bytes)
            self._inputs, self._sent = self._memory.allocate(size), self._memory.pinned(size)
        return self._inputs, self._sent

    def outputs(self, num_bytes: int) -> Block:
        """A block for outputs."""
        if self._outputs.num_bytes < num_bytes:
            self._outputs = self._memory.allocate(_rounded(num_bytes))
        return self._outputs

    def results(self, num_bytes: int) -> Bytes:
        """Host memory that outputs arrive in."""
        if len(self._got) < num_bytes:
            self._got = self._memory.pinned(_rounded(num_bytes))
        return self._got

    @property
    def device_bytes(self) -> int:
        """On the device now."""
        return self._inputs.num_bytes + self._outputs.num_bytes

    @property
    def host_bytes(self) -> int:
        """Page-locked now."""
        return len(self._sent) + len(self._got)


def _rounded(num_bytes: int) -> int:
    return max(_LEAST, 1 << (num_bytes - 1).bit_length())
