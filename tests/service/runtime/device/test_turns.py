"""Captures, and memory given back, while others use the GPU."""

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.runtime.device import loading, resident
from service.runtime.device.gate import Gate
from service.runtime.runner import Runner
from tests.service.runtime.device.far import Far, FarSession
from tests.service.runtime.device.test_capture import CONFIG, expect_right_steps, write
from tests.service.runtime.device.test_resident import TOP, batch

PATIENCE_S = 30.0


@contextmanager
def somebody_inside(gate: Gate) -> Iterator[None]:
    """A long run of another model, say."""
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with gate.shared():
            inside.set()
            leave.wait(PATIENCE_S)

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    try:
        assert inside.wait(PATIENCE_S)
        yield
    finally:
        leave.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_while_others_use_the_gpu_steps_run_uncaptured_and_are_captured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(press_s=0.01, pause_s=3600.0)
    monkeypatch.setattr(resident, "GATE", gate)
    far = Far()
    runner = far.open(tmp_path, write(tmp_path), CONFIG)
    with somebody_inside(gate):
        runner.warm_up()
        runner.run("step", batch(2), TOP)
        assert far.step().runs[-1][0] == "-1"
        assert runner.captured == {"step": [1, 4]}
    assert (runner.uncaptured, runner.warnings) == ("", ())
    runner.run("step", batch(2), TOP)
    assert runner.captured == {"step": [1, 2, 4]}
    runner.warm_up()
    assert runner.captured == {"step": [1, 2, 4, 8, 16, 32]}
    runner.write_rows(range(2, 8), {"hash": np.zeros((6, 1), np.float32)})
    expect_right_steps(runner)


def test_a_model_that_is_opened_while_others_use_the_gpu_waits_for_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not proved at load never can be: states of sessions lie in the pools from then on."""
    gate = Gate(press_s=0.01, pause_s=3600.0)
    monkeypatch.setattr(resident, "GATE", gate)
    opened: list[Runner] = []
    with somebody_inside(gate):
        thread = threading.Thread(target=lambda: opened.append(Far().open(tmp_path, write(tmp_path), CONFIG)))
        thread.start()
        with gate._changed:
            while not gate._press_from:  # until it has pressed in vain
                gate._changed.wait(0.01)
    thread.join(PATIENCE_S)
    assert opened[0].captured == {"step": [1, 4]}
    monkeypatch.setattr(resident, "_PROOF_WAIT_S", 0.0)
    with somebody_inside(gate):
        runner = Far().open(tmp_path, write(tmp_path), CONFIG)
    reason = "the GPU: expected a moment without other runs, to capture in, got none"
    assert runner.warnings == (f"graph step: runs without CUDA graphs: {reason}",)
    assert (runner.captured, runner.uncaptured) == ({}, reason)
    expect_right_steps(runner)


def test_sessions_give_their_memory_back_inside_the_gate_whoever_lets_go_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was to be captured and could not, and one of a runner that was not opened to the end."""
    gate = Gate()
    alive: list[weakref.ref[Any]] = []

    class Inner:
        """What the library keeps for a session."""

    class Session(FarSession):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._sess = Inner()
            alive.append(weakref.ref(self._sess))

    monkeypatch.setattr(loading, "GATE", gate)
    monkeypatch.setattr("tests.service.runtime.device.far.FarSession", Session)
    far = Far()
    far.refuses_to_capture = True
    runner: Runner | None = far.open(tmp_path, write(tmp_path), CONFIG)
    far.sessions.clear()
    gc.collect()
    assert [reference() is None for reference in alive] == [True, False]
    with somebody_inside(gate):
        runner = None
        gc.collect()
        assert alive[1]() is not None
    assert alive[1]() is None
    alive.clear()
    monkeypatch.setattr(loading, "write_initial_states", lambda *_: pytest.fail("no room"))
    with somebody_inside(gate):
        with pytest.raises(pytest.fail.Exception):
            far.open(tmp_path, write(tmp_path), CONFIG)
        far.sessions.clear()
        gc.collect()
        assert [reference() is None for reference in alive] == [False]
    assert [reference() is None for reference in alive] == [True]
    assert runner is None
