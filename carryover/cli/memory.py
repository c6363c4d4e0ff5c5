"""Keep what a command runs within the memory that there is, so that a failed allocation ends it and not the system."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/proc/meminfo")
_PROCESS = Path("/proc/self/status")
_GROUP = Path("/sys/fs/cgroup/memory.max")


@contextmanager
def within_memory() -> Iterator[None]:
    """Refuse the process more memory than is available now; where the system does not say how much, do nothing."""
    available, used = _read(_MEMORY, "MemAvailable"), _read(_PROCESS, "VmData")
    if available is None or used is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [used + min(available, _group_limit(available)), *[bound for bound in (soft, hard) if bound >= 0]]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _read(file: Path, key: str) -> int | None:
    """Bytes that a file of the system gives under a key."""
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _group_limit(otherwise: int) -> int:
    """Bytes that the container may have."""
    try:
        return int(_GROUP.read_text())
    except (OSError, ValueError):  # no container, or no limit
        return otherwise
