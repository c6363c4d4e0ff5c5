"""A network of one's own, for servers that listen on all interfaces: nobody else can reach them there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

INSIDE = "CARRYOVER_PEERS_ISOLATED"
UP = 'ip link set lo up && exec "$@"'


def isolated() -> bool:
    """Whether this process is in such a network."""
    return os.environ.get(INSIDE) == "1"


def enter(arguments: Sequence[str]) -> bool:
    """Start `python -m bench.peers` again in a network that has nothing but loopback; False where that is refused."""
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", UP, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        return False
    sys.stdout.flush()
    os.environ[INSIDE] = "1"
    os.execvp(command[0], [*command, sys.executable, "-m", "bench.peers", *arguments])
