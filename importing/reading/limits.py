"""How much of anything a model file may ask for before it is refused."""

from dataclasses import dataclass
from typing import Final

GIB: Final = 1 << 30


@dataclass(frozen=True)
class ReadLimits:
    """What reading a file may cost, and how large the things in it may be.

    Args:
        max_file_bytes: Of the file, and of it with its external data; protobuf allows no message of 2 GiB.
        max_seconds: Wall-clock time for trying the file in a process of its own.
        max_memory_bytes: Address space of that process, above what the file itself takes.
        max_tensor_bytes: Of one declared tensor, unknown sizes counted as 1.
        max_nodes: Of the whole model, with every call of a local function written out.
        max_name_length: Characters of one name.
    """

    max_file_bytes: int = 2 * GIB - 1
    max_seconds: float = 120.0
    max_memory_bytes: int = 4 * GIB
    max_tensor_bytes: int = 2 * GIB
    max_nodes: int = 1_000_000
    max_name_length: int = 2000


DEFAULT_LIMITS: Final = ReadLimits()
