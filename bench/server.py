"""Start the service as its own process for a benchmark, and stop it whatever happens."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A running service.

    Args:
        address: host:port.
        pid: Of its process.
    """

    address: str
    pid: int

    def rss_bytes(self) -> int:
        """Resident memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def cpu_s(self) -> float:
        """Processor seconds so far, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(repository: Path, log: Path, **settings: object) -> Iterator[Server]:
    """Serve a repository on loopback, on the CPU.

    Args:
        repository: The model repository.
        log: Where the server's output goes.
        settings: CARRYOVER_* settings, by lower-case name.

    Raises:
        SystemExit: The server did not come up; the last lines of its log are the message.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CARRYOVER_")}
    environment |= {"CARRYOVER_PROVIDER": "cpu", "CARRYOVER_HTTP": "false"}
    environment |= {f"CARRYOVER_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "carryover", "serve", "--repository", str(repository), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"127.0.0.1:{port}"
        _wait(address, process, log)
        yield Server(address, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def serving(repository: Path, threads: int, log: Path, **settings: object) -> Iterator[str]:
    """As `running`, with that many intra-op threads a run; yields the address."""
    with running(repository, log, threads=threads, **settings) as server:
        yield server.address


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with grpc.insecure_channel(address) as channel:
        ready = grpc.channel_ready_future(channel)
        while time.monotonic() < deadline and process.poll() is None:
            try:
                ready.result(timeout=0.2)
                return
            except grpc.FutureTimeoutError:
                continue
    raise SystemExit("bench: the server did not start:\n" + log.read_text(errors="replace")[-2000:])
