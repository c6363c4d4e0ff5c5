"""A GPU that is lost to the process ends the engine, which tells everybody; an error that passes does not."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.manifest import GraphKind
from service.engine.engine import Engine
from service.engine.interface import ExportSession, OpenSession, StepTensors
from service.engine.limits import EngineLimits
from service.engine.slots import INITIAL_SLOT
from service.errors import InternalFailure
from service.runtime.errors import DeviceFailure
from tests.service import tensor_models
from tests.service import tiny_models as tiny
from tests.service.engine import oracle
from tests.service.engine.harness import PATIENCE_S, Harness, open_tiny, running
from tests.service.engine.scripted import Feeds, Gate, ScriptedRunner

TABLE = tiny.make_table()
LIMITS = EngineLimits(session_slots=8, max_sessions=8)
LOST = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=any ; file=gpu_data_transfer.cc"
FULL = "CUDA failure 2: out of memory ; GPU=0 ; hostname=any ; file=cuda_allocator.cc"


def fail(*_: object) -> Any:
    raise DeviceFailure("cudaMemcpyAsync", 0, 700, "an illegal memory access was encountered")


def failing_with(text: str) -> Callable[[int, GraphKind, Feeds], None]:
    def before(call: int, kind: GraphKind, feeds: Feeds) -> None:
        raise RuntimeError(text)

    return before


def made(runner: ScriptedRunner, num_runners: int = 1) -> Harness:
    """An engine that has not begun."""
    harness = Harness()
    harness.engine = Engine(runner, LIMITS, harness.publish, harness.stopped.set, num_runners=num_runners)
    return harness


def tensor_step(harness: Harness, session: int) -> int:
    inputs = {"turns": np.array([1], np.int64)}
    return harness.submit(StepTensors(harness.new_id(), session, inputs, {}, 1, ("total",)))


def check_failed(harness: Harness, requests: Sequence[int]) -> None:
    """Everybody was told, nobody blamed, and the owner knows."""
    for request in requests:
        assert isinstance(harness.error(request), InternalFailure)
    assert harness.stopped.wait(PATIENCE_S)
    assert harness.engine.failed
    with pytest.raises(InternalFailure, match="the model has stopped"):
        harness.engine.submit(OpenSession(harness.new_id(), 9))
    harness.engine.close()
    assert not any(thread.is_alive() for thread in harness.engine._threads)
    harness.check_one_end_each()


def check_all_fail(harness: Harness, sessions: Iterable[int]) -> None:
    """Each of some sessions takes a step, with the same end for all."""
    opened = list(sessions)
    for session in opened:
        harness.submit(OpenSession(harness.new_id(), session))
    steps = [tensor_step(harness, session) for session in opened]
    with closing(harness.engine):
        harness.engine.start()
        check_failed(harness, steps)


@pytest.mark.parametrize("num_runners", [1, 2])
@pytest.mark.parametrize("broken", ["read_rows", "write_rows"])
def test_states_that_cannot_be_copied_end_the_engine_and_not_its_thread_alone(
    tmp_path: Path, broken: str, num_runners: int
) -> None:
    """Of an imported model: rows are copied out before a batch, and back after one that failed."""
    runner = ScriptedRunner(open_tiny(tmp_path, tensor_models.write_patient(tmp_path)), failing_with("a node failed"))
    setattr(runner, broken, fail)
    check_all_fail(made(runner, num_runners), (1, 2))


@pytest.mark.parametrize("num_sessions", [1, 2])
def test_a_run_of_an_imported_model_that_loses_the_gpu_ends_the_engine(tmp_path: Path, num_sessions: int) -> None:
    runner = ScriptedRunner(open_tiny(tmp_path, tensor_models.write_patient(tmp_path)), failing_with(LOST))
    check_all_fail(made(runner), range(num_sessions))
    assert len(runner.calls) == 1  # nothing is tried again


def test_a_gpu_that_is_lost_while_a_batch_is_taken_apart_ends_the_engine(tmp_path: Path) -> None:
    def lose_later(call: int, kind: GraphKind, feeds: Feeds) -> None:
        raise RuntimeError(LOST if call > 1 else "a node failed")

    runner = ScriptedRunner(open_tiny(tmp_path, tensor_models.write_patient(tmp_path)), lose_later)
    check_all_fail(made(runner), (1, 2))
    assert len(runner.calls) == 2


def test_a_run_of_our_model_that_loses_the_gpu_ends_the_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)), failing_with(LOST))
    harness = made(runner)
    with closing(harness.engine):
        harness.engine.start()
        harness.open(1)
        check_failed(harness, [harness.step(1, [4])])
    assert "its GPU is lost to this process" in caplog.text


def test_a_run_for_which_there_is_no_memory_fails_alone(tmp_path: Path) -> None:
    def fail_once(call: int, kind: GraphKind, feeds: Feeds) -> None:
        if call == 1:
            raise RuntimeError(FULL)

    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)), fail_once)
    with running(runner) as harness:
        harness.open(1)
        assert isinstance(harness.error(harness.step(1, [4])), InternalFailure)
        harness.open(2)
        assert harness.steps(2, [4]) == [oracle.best_tokens(TABLE, tiny.next_hash(0, 4), 1)]
        harness.close(2)
        assert not harness.engine.failed


def test_a_gpu_that_is_lost_when_a_session_is_opened_ends_the_engine_with_all_that_came_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is given is completed by the initial one, which lies on the GPU."""
    gate = Gate()
    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)), lambda *_: gate.stop())
    state = {name: rows[0] for name, rows in runner.read_rows([INITIAL_SLOT]).items()}
    harness = made(runner)
    with closing(harness.engine):
        harness.engine.start()
        harness.open(1)
        step = harness.step(1, [4])
        gate.wait_inside()
        monkeypatch.setattr(runner, "read_rows", fail)
        opens = [harness.submit(OpenSession(harness.new_id(), session, state)) for session in (2, 3)]
        export = harness.submit(ExportSession(harness.new_id(), 4))
        gate.open()
        for request in opens:
            assert isinstance(harness.error(request), InternalFailure)
        harness.wait(export)
        harness.wait(step)
        check_failed(harness, [])


def test_a_gpu_that_is_lost_while_the_engine_gets_ready_ends_it(tmp_path: Path) -> None:
    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)))
    harness = Harness()
    harness.engine = Engine(runner, LIMITS, harness.publish, harness.stopped.set, warm_up=fail)
    harness.submit(OpenSession(harness.new_id(), 1))
    step = harness.step(1, [4])
    with closing(harness.engine):
        harness.engine.start()
        check_failed(harness, [step])
    assert runner.calls == []
