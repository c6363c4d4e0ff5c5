"""A service of our own for a while: started as a process, known to be healthy, stopped by SIGTERM."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from carryover.cli.errors import CommandError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0  # well above the service's own bound on finishing what runs
_SERVING = re.compile(r"serving on (\S+:\d+)")


@contextmanager
def serving(repository: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve a repository on a free loopback port; give its address once it is healthy.

    Args:
        repository: The model repository.
        environment: Variables on top of this process's.

    Raises:
        CommandError: It did not come up within a minute, or did not stop with status 0; says the last lines of its log.
    """
    command = [sys.executable, "-m", "carryover", "serve", "--repository", str(repository)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "CARRYOVER_HTTP": "false", **(environment or {})},
        start_new_session=True,  # Ctrl-C is for the command, which then stops the service
    )
    log: deque[str] = deque(maxlen=20)
    with _termination_unwinds():
        try:
            address = _wait_for_address(process, log)
            _wait_until_healthy(address, log)
            yield address
        finally:
            status = _stop(process)
    if status != 0:
        raise CommandError(f"service: expected exit status 0 after SIGTERM, got {status}{_tail(log)}")


def _wait_for_address(process: "subprocess.Popen[str]", log: deque[str]) -> str:
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:  # to the end, so that the service never blocks on a full pipe
            log.append(line.rstrip())
            if match := _SERVING.search(line):
                found.put(match[1])
        found.put(None)

    threading.Thread(target=read, name="service-log", daemon=True).start()
    try:
        address = found.get(timeout=START_TIMEOUT_S)
    except queue.Empty:
        raise CommandError(f"service: expected it to serve within {START_TIMEOUT_S:.0f} s{_tail(log)}") from None
    if address is None:
        raise CommandError(f"service: expected it to serve, got an exit{_tail(log)}")
    return address


def _wait_until_healthy(address: str, log: deque[str]) -> None:
    from carryover.client.errors import CarryoverError
    from carryover.client.sync import Client

    with Client(address) as client:
        try:
            healthy = client.is_serving(wait=True, timeout_s=START_TIMEOUT_S)
        except CarryoverError as error:
            raise CommandError(f"service: expected it to be healthy, got: {error}{_tail(log)}") from None
    if not healthy:
        raise CommandError(f"service: expected it to be healthy, got NOT_SERVING{_tail(log)}")


def _stop(process: "subprocess.Popen[str]") -> int:
    """Ask it to finish; past the bound, end it. Returns the exit status."""
    process.send_signal(signal.SIGTERM)  # nothing happens where it has ended already
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _tail(log: deque[str]) -> str:
    return "; its last lines: " + " | ".join(log) if log else ""


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that the service does not outlive the command."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
