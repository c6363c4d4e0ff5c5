"""An engine on a device: what it serves, and on which thread it gets ready."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine import engine as engine_module
from service.engine.interface import Decode, DescribeSessions
from service.engine.limits import EngineLimits
from service.errors import ShuttingDown
from service.runtime.runner import RunnerConfig
from tests.service import tiny_models as tiny
from tests.service.engine.harness import NO_SESSIONS, PATIENCE_S, Harness, running
from tests.service.engine.oracle import decode
from tests.service.runtime.device.far import Far
from tests.service.runtime.device.test_resident import TOP, batch

TABLE = tiny.make_table()
CONFIG = RunnerConfig("cpu", 1, 20, 256)


def best_after(tokens: list[int]) -> list[int]:
    state, best = 0, []
    for token in tokens:
        state = tiny.next_hash(state, token)
        best.append(int(TABLE[state].argmax()))
    return best


def test_sessions_that_come_and_go_are_answered_as_integer_arithmetic_says(tmp_path: Path) -> None:
    """More of them than there are slots, so that rows move to host memory and back all the time."""
    far = Far()
    runner = far.open(tmp_path, tiny.write_language_model(tmp_path, TABLE), CONFIG)
    limits = EngineLimits(session_slots=4, max_sessions=12, max_host_bytes=10_000)
    rng = np.random.default_rng(0)
    texts = rng.integers(1, 7, (12, 9)).tolist()
    with running(runner, limits) as engine:
        for session in range(12):
            engine.open(session)
        for start in range(0, 9, 3):
            asked = [engine.step(session, text[start : start + 3]) for session, text in enumerate(texts)]
            for text, request in zip(texts, asked, strict=True):
                got = [list(best) for best in engine.outputs(request).token_ids]
                assert got == [[token] for token in best_after(text[: start + 3])[start:]]
        for session in range(12):
            assert engine.close(session) == 9


def test_translations_are_what_the_search_finds(tmp_path: Path) -> None:
    runner = Far().open(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE), CONFIG)
    rng = np.random.default_rng(1)
    sources = [tuple(rng.integers(4, 7, rng.integers(1, 9)).tolist()) for _ in range(12)]
    with running(runner, NO_SESSIONS) as engine:
        requests = [Decode(engine.new_id(), source, 2, 1, 0.6, 8) for source in sources]
        for request in requests:
            engine.submit(request)
        for request in requests:
            assert engine.best(request.id).tokens == decode(TABLE, request)[0].tokens


def test_an_engine_gets_ready_on_the_thread_that_runs_and_once(tmp_path: Path) -> None:
    far = Far()
    runner = far.open(tmp_path, tiny.write_language_model(tmp_path, TABLE), CONFIG)
    threads: list[str] = []
    ready = threading.Event()

    def warm_up(closing: Callable[[], bool]) -> None:
        runner.warm_up(closing)
        threads.append(threading.current_thread().name)
        ready.set()

    harness = Harness()
    engine = engine_module.Engine(
        runner, EngineLimits(session_slots=4, max_sessions=4), harness.publish, num_runners=2, warm_up=warm_up
    )
    engine.start()
    try:
        assert ready.wait(PATIENCE_S)
        assert threads == ["runner-tiny-0"]
        assert runner.captured == {"step": [1, 2, 4, 8, 16]}
    finally:
        engine.close()


def test_an_engine_that_cannot_get_ready_serves_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = Far().open(tmp_path, tiny.write_language_model(tmp_path, TABLE), CONFIG)

    def warm_up(closing: Callable[[], bool]) -> None:
        raise RuntimeError("out of memory")

    harness = Harness()
    limits = EngineLimits(session_slots=4, max_sessions=4)
    engine: Any = engine_module.Engine(runner, limits, harness.publish, warm_up=warm_up)
    harness.engine = engine
    engine.start()
    try:
        harness.open(1)
        assert harness.steps(1, [4, 5]) == [[token] for token in best_after([4, 5])]
    finally:
        engine.close()
    assert "engine tiny: could not get ready beforehand" in caplog.text
    assert runner.run("step", batch(1), TOP)


def test_getting_ready_ends_between_captures_when_it_is_told_to(tmp_path: Path) -> None:
    runner = Far().open(tmp_path, tiny.write_language_model(tmp_path, TABLE), CONFIG)
    before = runner.captured["step"]
    answers = iter([False, True])
    runner.warm_up(lambda: next(answers))
    assert runner.captured == {"step": [*before, 16]}  # the largest first


def test_who_gets_ready_is_told_when_the_engine_closes(tmp_path: Path) -> None:
    runner = Far().open(tmp_path, tiny.write_language_model(tmp_path, TABLE), CONFIG)
    inside, told, seen = threading.Event(), threading.Event(), list[bool]()

    def warm_up(closing: Callable[[], bool]) -> None:
        seen.append(closing())
        inside.set()
        assert told.wait(PATIENCE_S)
        seen.append(closing())

    limits = EngineLimits(session_slots=4, max_sessions=4)
    engine = engine_module.Engine(runner, limits, Harness().publish, warm_up=warm_up)
    engine.start()
    assert inside.wait(PATIENCE_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(ShuttingDown):
        while True:  # until the door is shut, which is after `closing` is true
            engine.submit(DescribeSessions(1, ()))
    told.set()
    closing.join(PATIENCE_S)
    assert seen == [False, True]
