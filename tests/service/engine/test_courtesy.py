"""Runner threads go behind the others, and nobody else does."""

import os
import sys
import threading
from pathlib import Path

import pytest

from service.engine.courtesy import step_aside
from service.engine.interface import Decode
from tests.service import tiny_models as tiny
from tests.service.engine.harness import NO_SESSIONS, open_tiny, running
from tests.service.engine.scripted import ScriptedRunner

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have a nice value of their own on Linux alone")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_the_calling_thread_alone_steps_aside() -> None:
    before, seen = niceness(), []

    def work() -> None:
        seen.append(niceness())
        step_aside()
        seen.append(niceness())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, 5]
    assert niceness() == before


def test_runs_are_made_by_threads_that_stepped_aside(tmp_path: Path) -> None:
    seen: list[int] = []
    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, tiny.make_table()))
    with running(ScriptedRunner(model, lambda *_: seen.append(niceness())), NO_SESSIONS) as engine:
        engine.value(engine.submit(Decode(engine.new_id(), (4, 5), 1, 1, 0.6, 3)))
    assert set(seen) == {5}


def test_a_system_that_refuses_is_put_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr("ctypes.CDLL", refuse)
    step_aside()
