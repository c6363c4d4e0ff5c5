"""Processes of a peer: started, waited for, and gone afterwards, whatever they started themselves. Linux only."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
PR_SET_CHILD_SUBREAPER = 36


class PeerError(Exception):
    """A peer did not start, or answered wrong."""


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, answers: Callable[[], bool], **environment: str) -> Iterator[None]:
    """Run a server for the time of a `with`; nothing else is to be started by this process meanwhile and outlive it.

    Args:
        command: How to start it.
        log: Where its output goes.
        answers: Whether it answers by now; asked again and again until it does.
        environment: Variables beyond this process's own.

    Raises:
        PeerError: It ended, or did not answer in time; the message ends with its log.
    """
    # What outlives its parent becomes a child of this process, not of init, and is found below.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = descendants()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(process, log, answers)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        # One that forks while it is being killed leaves something for the next look; one whose parent died is ours.
        while left := descendants() - before:
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                if number == process.pid:
                    process.poll()
                else:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(number, os.WNOHANG)
            time.sleep(0.02)


def _wait(process: subprocess.Popen[bytes], log: Path, answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if answers():
            return
        time.sleep(0.1)
    state = "did not answer in time" if process.poll() is None else f"ended with status {process.returncode}"
    raise PeerError(f"the server {state}:\n" + log.read_text(errors="replace")[-2000:])


def descendants() -> set[int]:
    """Ids of the processes that this one started, or that those started, zombies too."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (name) state ppid ...; a name may hold anything, even parentheses
                _, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(parent), []).append(int(folder.name))
    found: set[int] = set()
    ahead = [os.getpid()]
    while ahead:
        of = children.get(ahead.pop(), [])
        found.update(of)
        ahead += of
    return found
