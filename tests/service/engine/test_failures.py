"""One broken batch breaks for its requests alone."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from export.manifest import GraphKind
from service.engine.engine import Engine
from service.engine.integrity import IntegrityError
from service.engine.interface import AnyRequest, CloseSession, Decode, Event, Generate, RunSequence, Sampling
from service.engine.limits import EngineLimits
from service.engine.slots import StaleSlot
from service.engine.tasks.decode import DecodeTask
from service.engine.tasks.task import Outputs
from service.errors import InternalFailure, SessionNotFound
from tests.service import tiny_models as tiny
from tests.service.engine import oracle
from tests.service.engine.harness import NO_SESSIONS, PATIENCE_S, Harness, open_tiny, running
from tests.service.engine.scripted import Feeds, Gate, ScriptedRunner

TABLE = tiny.make_table()
SECRET = "ORT says: node Gather_7 failed"


def test_a_failing_batch_fails_its_requests_and_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail_some(call: int, kind: GraphKind, feeds: Feeds) -> None:
        if kind == "encode" and 6 in feeds["source"]:
            raise RuntimeError(SECRET)

    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE)), fail_some)
    with running(runner, NO_SESSIONS) as engine, caplog.at_level(logging.ERROR):
        good = [Decode(engine.new_id(), (4, 5) * (i + 1), 2, 1, 0.6, 20) for i in range(5)]
        for request in good[:-1]:
            engine.submit(request)
            engine.wait_for_events(request.id, 1)  # past its encoder
        bad = engine.submit(Decode(engine.new_id(), (4, 6), 2, 1, 0.6, 20))
        error = engine.error(bad)
        assert isinstance(error, InternalFailure)
        assert SECRET not in str(error) and SECRET in caplog.text
        engine.submit(good[-1])
        for request in good:
            assert engine.hypotheses(request.id) == oracle.decode(TABLE, request)


def test_a_session_whose_step_broke_is_over_with_all_that_it_has_pending(tmp_path: Path) -> None:
    gate = Gate()

    def fail_on_six(call: int, kind: GraphKind, feeds: Feeds) -> None:
        gate.stop()
        if 6 in feeds["tokens"]:
            raise RuntimeError(SECRET)

    model = open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE))
    with running(ScriptedRunner(model, fail_on_six)) as engine:
        for session in (1, 2):
            engine.open(session)
        other = engine.step(2, [4, 4, 4])
        gate.wait_inside()
        broken, pending = engine.step(1, [5, 6]), engine.step(1, [4])
        close = engine.submit(CloseSession(engine.new_id(), 1))
        gate.let_go()
        gate.wait_inside()  # 5 beside the other session's second step
        gate.let_go()
        gate.wait_inside()  # 6 beside its third: this batch fails, and both of its requests with it
        gate.open()
        for request in (broken, pending, close, other):
            assert isinstance(engine.error(request), InternalFailure)
        for session in (1, 2):
            assert isinstance(engine.error(engine.step(session, [4])), SessionNotFound)
        engine.open(3)
        assert engine.steps(3, [4]) == [oracle.best_tokens(TABLE, tiny.next_hash(0, 4), 1)]
        engine.close(3)


def test_a_request_that_cannot_even_be_started_fails_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))
    with running(model, NO_SESSIONS) as engine:
        good, impossible = Decode(1, (4, 5), 2, 1, 0.6, 20), Decode(2, (4, 5), 2, 3, 0.6, 20)
        for request in (impossible, good):
            engine.submit(request)
        assert isinstance(engine.error(2), InternalFailure)
        assert engine.hypotheses(1) == oracle.decode(TABLE, good)
    assert "num_best 3" in caplog.text


def test_a_listener_that_fails_does_not_stop_the_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Harness):
        def publish(self, events: Sequence[Event]) -> None:
            super().publish(events)
            raise RuntimeError("the loop is closed")

    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))
    with running(model, NO_SESSIONS, Fragile()) as engine:
        for _ in range(3):
            request = Decode(engine.new_id(), (4, 5), 1, 1, 0.6, 20)
            engine.submit(request)
            assert engine.hypotheses(request.id) == oracle.decode(TABLE, request)
    assert "nobody took" in caplog.text


def test_an_idle_engine_that_finds_its_books_wrong_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.engine.roster.Roster.check_integrity", lambda *_: broken())

    def broken() -> None:
        raise IntegrityError("slots: one is lost")

    monkeypatch.setattr("service.engine.engine._IDLE_WAIT_S", 0.01)
    harness = Harness()
    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))
    engine = Engine(model, NO_SESSIONS, harness.publish, harness.stopped.set)
    engine.start()
    assert harness.stopped.wait(PATIENCE_S)
    engine.close()
    assert "slots: one is lost" in caplog.text


def test_a_bug_in_the_loop_ends_every_request_tells_the_owner_and_refuses_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))
    with running(model, NO_SESSIONS) as engine:
        monkeypatch.setattr("service.engine.engine.schedule", broken)
        assert not engine.engine.failed
        request = engine.submit(Decode(engine.new_id(), (4, 5), 1, 1, 0.6, 20))
        assert isinstance(engine.error(request), InternalFailure)
        assert engine.stopped.wait(PATIENCE_S)
        assert engine.engine.failed
        # It is not the service that shuts down, and coming back later does not help.
        with pytest.raises(InternalFailure, match="the model has stopped"):
            engine.submit(Decode(engine.new_id(), (4, 5), 1, 1, 0.6, 20))


def test_an_engine_that_was_closed_has_not_failed(tmp_path: Path) -> None:
    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))
    with running(model, NO_SESSIONS) as engine:
        pass
    assert not engine.stopped.is_set() and not engine.engine.failed


def test_requests_end_even_where_the_bug_is_in_the_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise StaleSlot("slot 2")

    gate, harness = Gate(), Harness()
    model = ScriptedRunner(open_tiny(tmp_path, tiny.write_language_model(tmp_path, TABLE)), lambda *_: gate.stop())
    engine = harness.engine = Engine(
        model, EngineLimits(session_slots=4, max_sessions=4), harness.publish, harness.stopped.set
    )
    engine.start()
    harness.open(1)
    steps = [harness.step(1, [4]) for _ in range(2)]
    texts = [harness.submit(Generate(harness.new_id(), (2,), Sampling(0.0, 0, 1.0, 0), 1)) for _ in range(3)]
    gate.wait_inside()
    monkeypatch.setattr("service.engine.slots.SlotTable.free", lost)
    gate.open()
    for request in (*steps, *texts):
        harness.wait(request)
    assert harness.stopped.wait(PATIENCE_S)
    harness.check_one_end_each()


def test_a_bug_in_admitting_leaves_nothing_without_its_end(tmp_path: Path) -> None:
    """Of five that come at once the second breaks the books; what comes behind it had been taken, too."""

    def broken_for_one(request: AnyRequest, now: float) -> None:
        if request.id == requests[1]:
            raise RuntimeError(SECRET)
        admit(request, now)

    harness = Harness()
    model = open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE))
    harness.engine = Engine(model, NO_SESSIONS, harness.publish, harness.stopped.set)
    roster = harness.engine._roster
    admit, roster.admit = roster.admit, broken_for_one  # type: ignore[method-assign]
    requests = [harness.submit(Decode(harness.new_id(), (4, 5), 1, 1, 0.6, 20)) for _ in range(5)]
    harness.engine.start()
    for request in requests:
        assert isinstance(harness.error(request), InternalFailure)
    assert harness.stopped.wait(PATIENCE_S)
    harness.engine.close()
    harness.check_one_end_each()


def test_a_decision_that_breaks_ends_its_own_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    advance = DecodeTask.advance

    def broken_for_one(self: DecodeTask, outputs: Outputs, row: int) -> Sequence[Event]:
        if self.source == (4, 4, 4) and self.work.graph == "step":
            raise IndexError(SECRET)
        return advance(self, outputs, row)

    monkeypatch.setattr(DecodeTask, "advance", broken_for_one)
    gate = Gate()
    runner = ScriptedRunner(open_tiny(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE)), lambda *_: gate.stop())
    with running(runner, NO_SESSIONS) as engine:
        requests = [Decode(engine.new_id(), source, 2, 1, 0.6, 20) for source in ((5,), (4, 4, 4), (6, 5), (4, 6))]
        engine.submit(requests[0])
        gate.wait_inside()
        for request in requests[1:]:
            engine.submit(request)
        gate.open()
        assert isinstance(engine.error(requests[1].id), InternalFailure)
        for request in (requests[0], *requests[2:]):  # one of them before it in the batch, two behind
            assert engine.hypotheses(request.id) == oracle.decode(TABLE, request)
    assert SECRET in caplog.text


def test_nan_in_a_row_fails_that_request_and_is_never_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A poisoned state names a row of the table that is no number; the rows beside it go on."""
    table = TABLE.copy()
    broken_state = tiny.next_hash(0, 6)
    table[broken_state] = np.nan
    with running(open_tiny(tmp_path, tiny.write_language_model(tmp_path, table))) as engine:
        for session in (1, 2):
            engine.open(session)
        greedy, drawn = Sampling(0.0, 0, 1.0, 0), Sampling(1.0, 0, 1.0, 0)
        bad = [engine.submit(Generate(engine.new_id(), (6,), sampling, 1)) for sampling in (greedy, drawn)]
        bad.append(engine.step(1, [6], num_top=2))
        good = engine.step(2, [4], num_top=1)
        for request in bad:
            assert isinstance(engine.error(request), InternalFailure)
        engine.value(good)
        assert isinstance(engine.error(engine.step(1, [4])), SessionNotFound)
        engine.close(2)
    assert caplog.text.count("NotANumber: ") == 3


def test_nan_in_a_sequence_fails_that_request_alone(tmp_path: Path) -> None:
    table = TABLE.copy()
    table[9] = np.nan
    with running(open_tiny(tmp_path, tiny.write_tagger(tmp_path, table)), NO_SESSIONS) as engine:

        def ask(word: int) -> int:
            inputs = {"words": np.array([word]), "characters": np.array([[4]])}
            return engine.submit(RunSequence(engine.new_id(), inputs, 1, ("emissions",)))

        good, bad = ask(4), ask(5)
        engine.value(good)
        assert isinstance(engine.error(bad), InternalFailure)
