"""`carryover serve` as a process whose two doors are known, and which must end well."""

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.server import free_port

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 40.0
BAD_LINE = re.compile(r" CRITICAL | ERROR |Traceback")


@dataclass
class Server:
    """A running server.

    Args:
        grpc: Address of the gRPC door.
        http: Address of the HTTP door.
        repository: What it serves.
        process: Its process.
        log: The lines of its log so far.
    """

    grpc: str
    http: str
    repository: Path
    process: "subprocess.Popen[str]"
    log: list[str] = field(default_factory=list)
    is_terminated: bool = False

    def bad_lines(self) -> list[str]:
        """Lines of the log that a server without defects does not write."""
        return [line for line in self.log if BAD_LINE.search(line)]

    def terminate(self) -> None:
        """Send SIGTERM, once: a second one would end it at once."""
        if not self.is_terminated:
            self.is_terminated = True
            self.process.send_signal(signal.SIGTERM)  # nothing happens where it has ended already


@contextlib.contextmanager
def running(repository: Path, **settings: object) -> Iterator[Server]:
    """Serve a repository on loopback until the block ends; then the exit status must be 0 and the log without errors.

    Args:
        repository: The model repository.
        settings: CARRYOVER_* settings, by lower-case name.
    """
    http_port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CARRYOVER_")}
    chosen = {"provider": "cpu", "http_port": http_port, **settings}
    environment |= {f"CARRYOVER_{name.upper()}": str(value) for name, value in chosen.items()}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "carryover", "serve", "--repository", str(repository), "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    log: list[str] = []
    try:
        server = Server(_address(process, log), f"127.0.0.1:{http_port}", repository, process, log)
        yield server
    except BaseException:
        process.kill()
        process.wait()
        raise
    server.terminate()
    try:
        status = process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"expected an end within {STOP_TIMEOUT_S:g} s of SIGTERM; log: {log[-10:]}") from None
    assert status == 0, (status, log[-10:])
    assert server.bad_lines() == []


def _address(process: "subprocess.Popen[str]", log: list[str]) -> str:
    """Read the log on a thread, to its end, and wait for the line that tells the port."""
    found: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line.rstrip())
            if match := re.match(r"serving on (\S+:\d+)", line):
                found.put(match[1])
        found.put("")

    threading.Thread(target=read, name="server-log", daemon=True).start()
    address = found.get(timeout=START_TIMEOUT_S)
    assert address, f"expected it to serve, got an exit: {log[-10:]}"
    return address
