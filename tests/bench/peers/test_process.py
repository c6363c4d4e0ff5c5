"""A peer's processes are gone after it, however they were started."""

import os
import sys
from pathlib import Path

import pytest

from bench.peers import process
from bench.peers.process import PeerError, descendants, running

# Starts a process that leaves its session and its parent, as daemons do, and ignores SIGTERM; then says its id.
DAEMON = """
import os, signal, sys, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writer, str(os.getpid()).encode())
        os.close(writer)
        time.sleep(600)
    os._exit(0)
os.close(writer)
number = os.read(reader, 20).decode()
made = sys.argv[1] + ".made"
open(made, "w").write(number)
os.rename(made, sys.argv[1])
time.sleep(600)
"""


def test_a_daemon_that_a_peer_started_is_found_and_ended(tmp_path: Path) -> None:
    told, before = tmp_path / "told", descendants()
    with running([sys.executable, "-c", DAEMON, str(told)], tmp_path / "log", told.exists):
        daemon = int(told.read_text())
        assert daemon in descendants() - before
        assert os.getsid(daemon) != os.getsid(0)
    assert descendants() == before
    with pytest.raises(ProcessLookupError):
        os.kill(daemon, 0)


def test_a_peer_that_fails_inside_the_block_is_ended_too(tmp_path: Path) -> None:
    before = descendants()
    with (
        pytest.raises(RuntimeError, match="wrong"),
        running([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log", lambda: True),
    ):
        assert descendants() - before
        raise RuntimeError("wrong")
    assert descendants() == before


def test_a_peer_that_ends_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such port')"]
    with (
        pytest.raises(PeerError, match=r"ended with status 1(.|\n)*no such port"),
        running(command, tmp_path / "log", lambda: False),
    ):
        pytest.fail("it never answered")


def test_a_peer_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_TIMEOUT_S", 0.2)
    before = descendants()
    with (
        pytest.raises(PeerError, match="did not answer in time"),
        running([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log", lambda: False),
    ):
        pytest.fail("it never answered")
    assert descendants() == before
