"""Whether the files of a bundle have changed since they were looked at, without reading them."""

import os
from pathlib import Path

from service.measuring.host import FOLDER

Stamp = tuple[tuple[str, int, int, int], ...]


def stamp(folder: Path) -> Stamp:
    """Name, inode, size and time of change of every file, by name; nothing of what cannot be read.

    Left out are what begins with a dot and the profiles of hosts, which we write there ourselves.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != FOLDER]
        for name in files:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            if not name.startswith("."):
                found.append((os.path.relpath(path, folder), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))
