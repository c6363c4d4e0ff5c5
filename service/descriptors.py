"""File descriptors: each connection takes one, and a process that has none left can neither accept nor open anything.

The soft limit is 1024 in many places for the sake of programs that use select(2), which this one does not: it is raised
to the hard one. Connections over HTTP, which cost their callers nothing to keep, get at most a half of that: however
many there are, the other half is there for gRPC, for files and for shared memory.
"""

import contextlib
import resource
from typing import Final

HTTP_SHARE: Final = 2  # one part in so many


def raise_limit() -> int:
    """Raise this process's limit as far as it may.

    Returns:
        The limit from now on; resource.RLIM_INFINITY: there is none.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # not everywhere may what is written there be set
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def max_http_connections(wanted: int) -> int:
    """How many connections over HTTP there may be: as many as wanted, or their share of what the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(1, soft // HTTP_SHARE))
