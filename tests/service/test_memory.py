"""One heap for all threads, and free memory given back; each in a process of its own, as the heap is the process's."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are calls of glibc")

PRELUDE = """
import ctypes, sys, threading
from service.memory import give_back, use_one_heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.fdopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
"""
THREADS = """
held = []
together = threading.Barrier(4)

def allocate():
    together.wait()
    held.append(libc.malloc(1000))
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""
LARGE = """
libc.free(libc.malloc(6_000_000))
libc.malloc(6_000_000)
libc.malloc(2_000_000)
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""
TRIM = """
class Loop: pass
loop = Loop()
loop.itself, loop.data = loop, b"x" * 30_000_000
del loop
blocks = [libc.malloc(60_000) for _ in range(1000)]  # too small to be mappings of their own
for block in blocks:
    libc.memset(block, 1, 60_000)
for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
    libc.free(block)
before = resident()
give_back()
print(before - resident())
"""


def said(code: str) -> str:
    command = [sys.executable, "-c", PRELUDE + code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


def num_heaps(code: str) -> int:
    return len(re.findall("<heap nr=", said(code)))


def test_threads_share_one_heap() -> None:
    assert num_heaps(THREADS) > 1  # by itself
    assert num_heaps("use_one_heap()\n" + THREADS) == 1


def test_what_is_large_and_nothing_else_lies_outside_of_the_heap() -> None:
    def num_mapped(code: str) -> int:
        (count,) = re.findall('<total type="mmap" count="(\\d+)"', said(code))
        return int(count)

    by_itself = num_mapped(LARGE)  # what the interpreter has
    assert num_mapped("use_one_heap()\n" + LARGE) == by_itself + 1


def test_free_memory_is_given_back_and_that_of_garbage() -> None:
    assert int(said(TRIM)) > 80_000_000
