"""Regions of the machine's shared memory that callers have registered, by name.

A region is a part of a POSIX shared memory object, mapped here as it is there: what a caller has written is read where
it lies. It belongs to the service until it is forgotten; views of it that requests still hold keep the memory mapped,
so that a region may be forgotten at any time. Only callers on this machine have use for them, and no others are served.
"""

import errno
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from service.oip.errors import OipError

FOLDER = Path("/dev/shm")  # where shm_open(3) keeps the objects
MAX_REGIONS = 1024
MAX_NAME_CHARACTERS = 255  # of a region and of an object


class Region:
    """A registered region.

    Args:
        name: What requests call it.
        key: Of the object, as it came.
        offset: Where it begins in the object, in bytes.
        byte_size: Its size in bytes.
        mapped: The object from a page at or before `offset` to the region's end.
        start: Where in `mapped` it begins.
    """

    def __init__(self, name: str, key: str, offset: int, byte_size: int, mapped: mmap.mmap, start: int) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._mapped = mapped
        self._memory = memoryview(mapped)[start : start + byte_size]

    def part(self, offset: int, byte_size: int) -> memoryview:
        """Give a part of it to read and to write.

        Raises:
            OipError: It has no such part, or the object has become too small for it.
        """
        if not 0 <= offset < self.byte_size:
            raise OipError("invalid_argument", f"Invalid offset for shared memory region: '{self.name}'")
        if not 0 <= byte_size <= self.byte_size - offset:
            raise OipError("invalid_argument", f"Invalid offset + byte size for shared memory region: '{self.name}'")
        self.check_size()
        return self._memory[offset : offset + byte_size]

    def check_size(self) -> None:
        """See whether the object is still as large as the region: beyond its end the system would kill the process.

        Raises:
            OipError: It is smaller.
        """
        if self._mapped.size() < self.offset + self.byte_size:
            raise OipError("invalid_argument", f"Invalid shared memory region: '{self.name}', which has shrunk")


class Regions:
    """All regions of the service. Everything runs on the event loop.

    Args:
        enabled: Whether there are any.
        folder: Where the objects are.
    """

    def __init__(self, enabled: bool, folder: Path = FOLDER) -> None:
        self.enabled = enabled
        self._folder = folder
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Map a region.

        Args:
            name: What requests are to call it.
            key: Of the object, as in shm_open(3): a name, with or without one slash before it.
            offset: Where the region begins in it, in bytes.
            byte_size: Of the region.

        Raises:
            OipError: Regions are disabled, the name is taken, there is no such object, or it is smaller.
        """
        self._check_enabled()
        if name in self._regions:
            raise OipError("already_exists", f"shared memory region '{name}' already in manager")
        if not name or len(name) > MAX_NAME_CHARACTERS:
            expected = f"a name of 1 to {MAX_NAME_CHARACTERS} characters"
            raise OipError("invalid_argument", f"failed to register shared memory region: expected {expected}")
        if len(self._regions) >= MAX_REGIONS:
            expected = f"expected at most {MAX_REGIONS} regions, got one more"
            raise OipError("unavailable", f"failed to register shared memory region '{name}': {expected}")
        fd = self._open(name, key)
        try:
            self._regions[name] = _map(fd, name, key, offset, byte_size)
        finally:
            os.close(fd)  # the mapping has its own

    def status(self, name: str) -> Sequence[Region]:
        """List the region of a name, or with no name all.

        Raises:
            OipError: Regions are disabled, or there is none of that name.
        """
        self._check_enabled()
        if not name:
            return list(self._regions.values())
        region = self._regions.get(name)
        if region is None:
            raise OipError("not_found", f"Unable to find system shared memory region: '{name}'")
        return [region]

    def unregister(self, name: str) -> None:
        """Forget the region of a name, if there is one, or with no name all; requests that use them are not disturbed.

        Raises:
            OipError: Regions are disabled.
        """
        self._check_enabled()
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def find(self, name: str) -> Region:
        """Find a region that a request names.

        Raises:
            OipError: Regions are disabled, or there is none of that name.
        """
        self._check_enabled()
        region = self._regions.get(name)
        if region is None:
            raise OipError("not_found", f"Unable to find shared memory region: '{name}'")
        return region

    def _check_enabled(self) -> None:
        if not self.enabled:
            expected = "Start the server with the setting 'shared_memory' to enable."
            raise OipError("unimplemented", f"Client shared memory is disabled. {expected}")

    def _open(self, name: str, key: str) -> int:
        """Open the object of a key, and nothing outside the folder of such objects."""
        object_name = key.removeprefix("/")
        if not object_name or "/" in object_name or "\0" in object_name or object_name in (".", ".."):
            message = f"cannot register shared memory region '{name}' - invalid shm key '{key}'"
            raise OipError("invalid_argument", message)
        try:
            # O_NONBLOCK: to wait for nobody at the other end of a pipe
            fd = os.open(self._folder / object_name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, UnicodeEncodeError):
            raise OipError("invalid_argument", f"Unable to open shared memory region: '{key}'") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OipError("invalid_argument", f"Unable to open shared memory region: '{key}'")
        return fd


def _map(fd: int, name: str, key: str, offset: int, byte_size: int) -> Region:
    failed = f"failed to register shared memory region '{name}'"
    if offset < 0 or byte_size <= 0 or offset + byte_size > os.fstat(fd).st_size:
        raise OipError("invalid_argument", f"{failed}: invalid args")
    start = offset % mmap.ALLOCATIONGRANULARITY
    try:
        mapped = mmap.mmap(fd, start + byte_size, offset=offset - start)
    except (OSError, ValueError, OverflowError) as error:  # no address space; the object has shrunk just now
        code = getattr(error, "errno", None) or errno.EINVAL
        raise OipError("invalid_argument", f"{failed}: unable to process address space: {os.strerror(code)}") from None
    return Region(name, key, offset, byte_size, mapped, start)
