"""Start the service as its own process for a benchmark, and stop it whatever happens."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(repository: Path, threads: int, log: Path, **settings: int) -> Iterator[str]:
    """Serve a repository on loopback; yields the address.

    Args:
        repository: The model repository.
        threads: Intra-op threads of ONNX Runtime.
        log: Where the server's output goes.
        settings: Further CARRYOVER_* settings, by lower-case name.

    Raises:
        SystemExit: The server did not come up; the last lines of its log are the message.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CARRYOVER_")}
    environment |= {f"CARRYOVER_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"CARRYOVER_THREADS": str(threads), "CARRYOVER_PROVIDER": "cpu"}
    command = [sys.executable, "-m", "carryover", "serve", "--repository", str(repository), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"127.0.0.1:{port}"
        _wait(address, process, log)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
