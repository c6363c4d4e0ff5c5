"""The C library's heap, kept from holding memory that nobody uses.

glibc gives threads heaps of their own, several a core. The weights of a version are read on one thread, its runs
allocate on others, and all of it is freed when a newer version takes its place: in a heap where something small
outlives it, pages stay half full, and each reload leaves a little more of them behind. In one heap the next version
fills the holes of the last. The threads that allocate here are few, and mostly take turns at the interpreter anyway: it
costs no speed that could be measured (docs/log.md).
"""

import contextlib
import ctypes
import gc
from typing import Final

_M_ARENA_MAX: Final = -8  # mallopt(3)


def use_one_heap() -> None:
    """Have threads that start from now on share one heap; without effect where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return free memory to the system, what garbage holds included; takes tens of milliseconds of any thread.

    Objects that are alive are left out of later collections: they are there to stay.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)
