"""What the engine refuses, and when: overload, deadlines, cancels, draining, closing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from service.engine.engine import Engine
from service.engine.interface import (
    Cancelled,
    Decode,
    Failed,
    Finished,
    Generate,
    OpenSession,
    RequestId,
    RunSequence,
    Sampling,
)
from service.engine.limits import EngineLimits
from service.errors import DeadlineExceeded, InvalidInput, Overloaded, SessionNotFound, ShuttingDown, WrongTask
from tests.service import tiny_models as tiny
from tests.service.engine.harness import NO_SESSIONS, Harness, open_tiny, running
from tests.service.engine.scripted import Gate, ScriptedRunner

TABLE = tiny.make_table()
GREEDY = Sampling(0.0, 0, 1.0, 0)


@contextmanager
def gated(
    folder: Path,
    num_slots: int = 5,
    num_memory_rows: int = 1024,
    max_waiting: int = 100,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Harness, Gate, ScriptedRunner]]:
    """An encoder-decoder that stops before every run until told to go on."""
    gate = Gate()
    model = open_tiny(folder, tiny.write_encoder_decoder(folder, TABLE), num_slots, num_memory_rows)
    runner = ScriptedRunner(model, lambda *_: gate.stop())
    with running(runner, EngineLimits(session_slots=0, max_sessions=0, max_waiting=max_waiting), clock=clock) as engine:
        yield engine, gate, runner


def submit_decode(engine: Harness, beam_size: int = 1, length: int = 5, deadline_s: float | None = None) -> RequestId:
    return engine.submit(Decode(engine.new_id(), (4,) * length, beam_size, 1, 0.6, 20, deadline_s=deadline_s))


def test_decodes_wait_for_slots_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    with gated(tmp_path) as (engine, gate, _):  # three slots
        first = submit_decode(engine, beam_size=2)
        gate.wait_inside()
        wide = submit_decode(engine, beam_size=3)
        narrow = submit_decode(engine, beam_size=1)  # would fit beside the first, but the wide one came before
        gate.open()
        for request in (first, wide, narrow):
            engine.value(request)
        order = [request for request in engine.events if request in (first, wide, narrow)]
        assert order == [first, wide, narrow]


def test_decodes_wait_for_memory_too(tmp_path: Path) -> None:
    with gated(tmp_path, num_memory_rows=32) as (engine, gate, runner):  # three pages
        requests = [submit_decode(engine, length=9) for _ in range(3)]  # two pages each
        gate.open()
        for request in requests:
            engine.value(request)
        assert [rows for kind, rows in runner.calls if kind == "encode"] == [1, 1, 1]


def test_what_can_never_fit_is_refused_with_the_limit(tmp_path: Path) -> None:
    with gated(tmp_path, num_memory_rows=32) as (engine, gate, _):
        gate.open()
        beam = engine.error(submit_decode(engine, beam_size=4))
        assert isinstance(beam, InvalidInput) and str(beam) == "beam_size: expected at most 3, got 4"
        source = engine.error(submit_decode(engine, length=25))
        assert isinstance(source, InvalidInput) and "at most 24 tokens, got 25 tokens" in str(source)


def test_more_than_max_waiting_are_refused_and_those_admitted_are_served(tmp_path: Path) -> None:
    with gated(tmp_path, max_waiting=4) as (engine, gate, _):
        running_ones = [submit_decode(engine)]
        gate.wait_inside()
        waiting = [submit_decode(engine) for _ in range(4)]
        with pytest.raises(Overloaded, match="4 requests are waiting") as refusal:
            submit_decode(engine)
        assert 0 < refusal.value.retry_after_s <= 30
        gate.open()
        for request in running_ones + waiting:
            engine.value(request)
        engine.value(submit_decode(engine))  # there is room again


def test_a_deadline_that_passes_while_waiting_ends_the_request(tmp_path: Path) -> None:
    now = 0.0
    with gated(tmp_path, clock=lambda: now) as (engine, gate, _):
        first = submit_decode(engine, beam_size=3)
        gate.wait_inside()
        late = submit_decode(engine, deadline_s=10.0)
        now = 10.0
        gate.open()
        assert isinstance(engine.error(late), DeadlineExceeded)
        engine.value(first)


def test_a_deadline_that_passes_while_running_frees_the_slots_after_that_step(tmp_path: Path) -> None:
    now = 0.0
    with gated(tmp_path, clock=lambda: now) as (engine, gate, runner):
        request = submit_decode(engine, beam_size=2, deadline_s=10.0)
        gate.wait_inside()
        gate.let_go()
        gate.wait_inside()
        now = 10.0
        gate.open()
        assert isinstance(engine.error(request), DeadlineExceeded)
        assert len(runner.calls) == 2


def test_what_would_wait_beyond_its_deadline_or_for_too_long_is_refused_at_once(tmp_path: Path) -> None:
    """Requests take their time on the engine's clock; who comes when some wait is judged by that pace."""
    now = 0.0

    def pass_time() -> None:
        nonlocal now
        now += 0.5

    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE), num_slots=3)  # one at a time
    gate = Gate()
    runner = ScriptedRunner(model, lambda *_: pass_time())
    limits = EngineLimits(session_slots=0, max_sessions=0, max_queue_delay_s=20.0)
    with running(runner, limits, clock=lambda: now) as engine:
        for _ in range(60):
            engine.value(submit_decode(engine))
        each_s = now / 60
        assert each_s > 0.9
        runner.before = lambda *_: gate.stop()
        submit_decode(engine)
        gate.wait_inside()
        num_admitted = 3
        for _ in range(num_admitted):
            submit_decode(engine, deadline_s=now + 1000.0)
        with pytest.raises(DeadlineExceeded, match="requests wait now"):
            submit_decode(engine, deadline_s=now + each_s)
        with pytest.raises(Overloaded, match="a request would wait for") as refusal:
            while True:
                submit_decode(engine)
                num_admitted += 1
        assert num_admitted == pytest.approx(20.0 / each_s, rel=0.35)
        assert refusal.value.retry_after_s == pytest.approx(10.0, rel=0.35)
        assert engine.engine.stats().requests_refused == 0  # as of the last turn
        gate.open()
        engine.finish()
        engine.value(submit_decode(engine))
        assert engine.engine.stats().requests_refused == 1


def test_a_cancel_takes_effect_before_the_next_run(tmp_path: Path) -> None:
    with gated(tmp_path) as (engine, gate, runner):
        request = submit_decode(engine, beam_size=3)
        waiting = submit_decode(engine, beam_size=2)
        gate.wait_inside()
        gate.let_go()
        gate.wait_inside()  # in the first step
        engine.engine.cancel(waiting)
        engine.engine.cancel(request)
        engine.engine.cancel(request)  # twice does no harm
        engine.engine.cancel(12345)  # nor does an unknown one
        gate.open()
        assert isinstance(engine.wait(request), Cancelled)
        assert isinstance(engine.wait(waiting), Cancelled)
        assert [kind for kind, _ in runner.calls] == ["encode", "step"]


def test_what_needs_no_run_does_not_wait_for_one(tmp_path: Path) -> None:
    with gated(tmp_path) as (engine, gate, _):
        request = submit_decode(engine)
        gate.wait_inside()
        waiting, refused = submit_decode(engine), submit_decode(engine, beam_size=99)
        engine.engine.cancel(waiting)
        gate.let_go()
        gate.wait_inside()  # in the next run already
        with engine.changed:
            assert isinstance(engine.events[waiting][-1], Cancelled)
            assert isinstance(engine.events[refused][-1], Failed)
        gate.open()
        engine.value(request)


def test_a_cancel_of_what_has_ended_is_ignored(tmp_path: Path) -> None:
    with gated(tmp_path) as (engine, gate, _):
        gate.open()
        request = submit_decode(engine)
        engine.value(request)
        engine.engine.cancel(request)
        engine.value(submit_decode(engine))
        assert len([event for event in engine.events[request] if isinstance(event, Finished | Cancelled)]) == 1


def test_closing_fails_what_is_unfinished_and_takes_everything_back(tmp_path: Path) -> None:
    gate, harness = Gate(), Harness()
    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE), num_slots=4)
    engine = harness.engine = Engine(ScriptedRunner(model, lambda *_: gate.stop()), NO_SESSIONS, harness.publish)
    engine.start()
    requests = [submit_decode(harness, beam_size=2) for _ in range(3)]
    gate.wait_inside()
    gate.open()
    engine.close()
    for request in requests:
        end = harness.wait(request)
        assert isinstance(end, Finished) or isinstance(harness.error(request), ShuttingDown)
    harness.check_one_end_each()
    engine.check_integrity()
    assert engine.stats().free_slots == engine.stats().num_slots == 2
    with pytest.raises(ShuttingDown):
        submit_decode(harness)
    engine.close()  # twice does no harm


def test_what_the_model_cannot_do_is_said_in_the_callers_words(tmp_path: Path) -> None:
    for name in ("tagger", "lm"):
        (tmp_path / name).mkdir()
    words = np.array([4])
    with gated(tmp_path) as (engine, gate, _):
        gate.open()
        for request, wanted in (
            (OpenSession(engine.new_id(), 1), "that keeps sessions, one that can be stepped from left to right"),
            (Generate(engine.new_id(), (2,), GREEDY, 5), "that generates, a language_model"),
            (
                RunSequence(engine.new_id(), {"words": words}, 1, ("emissions",)),
                "that reads whole sequences, as taggers and language models do",
            ),
        ):
            error = engine.error(engine.submit(request))
            assert isinstance(error, WrongTask)
            assert str(error) == f"model: expected one {wanted}, got 'tiny' (task encoder_decoder)"
        assert isinstance(engine.error(engine.step(1, [4])), SessionNotFound)
    tagger = open_tiny(tmp_path / "tagger", tiny.write_tagger(tmp_path / "tagger", TABLE))
    with running(tagger, NO_SESSIONS) as engine:
        error = engine.error(submit_decode(engine))
        assert isinstance(error, WrongTask)
        assert str(error) == "model: expected one that transduces, an encoder_decoder, got 'tiny' (task tagger)"
        unknown = RunSequence(engine.new_id(), {"words": words}, 1, ("emissions",))
        assert isinstance(engine.error(engine.submit(unknown)), InvalidInput)
        inputs = {"words": words, "characters": np.array([[4]])}
        nowhere = RunSequence(engine.new_id(), inputs, 1, ("tags",))
        assert "emissions" in str(engine.error(engine.submit(nowhere)))


def test_requests_are_served_however_many_sessions_stay_open(tmp_path: Path) -> None:
    runner = open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE), num_slots=6)
    with running(runner, EngineLimits(session_slots=3, max_sessions=3)) as engine:
        for session in range(3):
            engine.open(session)
        busy = [engine.step(session, [4] * 50) for session in range(3)]
        for _ in range(3):
            assert engine.value(engine.submit(Generate(engine.new_id(), (2,), GREEDY, 3))) in ("end", "length")
        for request in busy:
            engine.value(request)
        for session in range(3):
            engine.close(session)


def test_a_model_that_attends_keeps_all_slots_for_requests(tmp_path: Path) -> None:
    runner = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE), num_slots=5)
    with running(runner, EngineLimits(session_slots=2, max_sessions=2)) as engine:
        engine.value(submit_decode(engine, beam_size=3))


def test_stats_count_what_waits_and_what_runs(tmp_path: Path) -> None:
    with gated(tmp_path) as (engine, gate, _):
        requests = [submit_decode(engine, beam_size=2, length=9) for _ in range(3)]
        gate.wait_inside()
        gate.let_go()
        gate.wait_inside()  # the turn before has been counted
        stats = engine.engine.stats()
        assert (stats.waiting, stats.running) == (2, 1)
        assert (stats.free_slots, stats.num_slots) == (1, 3)
        assert stats.num_memory_rows - stats.free_memory_rows == 16
        gate.open()
        for request in requests:
            engine.value(request)


@pytest.mark.parametrize("limits", [EngineLimits(3, 3), EngineLimits(0, 0, max_waiting=0), EngineLimits(-1, 0)])
def test_limits_that_cannot_be_kept_are_refused(tmp_path: Path, limits: EngineLimits) -> None:
    runner = open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE), num_slots=5)
    with pytest.raises(ValueError, match="session_slots at most 2, max_waiting and num_runners at least 1"):
        Engine(runner, limits, lambda events: None)
