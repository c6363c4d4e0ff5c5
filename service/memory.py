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

# mallopt(3). What is large, weights above all, lies in mappings of its own, which go back whole; by itself glibc raises
# the bound for that up to 32 MiB, to the largest block that was freed. What is free at the end of the heap goes back
# from twice that bound on, as is usual.
_OPTIONS: Final = (
    (-8, 1),  # M_ARENA_MAX
    (-3, 4 * 2**20),  # M_MMAP_THRESHOLD, bytes
    (-1, 8 * 2**20),  # M_TRIM_THRESHOLD, bytes
)


def use_one_heap() -> None:
    """Have threads that start from now on share one heap; without effect where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for option, value in _OPTIONS:
            set_option(option, value)


def give_back() -> None:
    """Return free memory to the system, what garbage holds included; takes tens of milliseconds of any thread.

    Objects that are alive are left out of later collections: they are there to stay.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)
