"""Sessions: state from request to request, whatever happens in between."""

import re
from pathlib import Path

import pytest

from service.engine.interface import (
    Cancelled,
    CloseSession,
    Generate,
    MarkSession,
    OpenSession,
    RequestId,
    Sampling,
    SessionEnded,
    StepSession,
)
from service.engine.limits import EngineLimits
from service.errors import InvalidInput, Overloaded, SessionClosed, SessionNotFound, StepMismatch
from tests.service import tiny_models as tiny
from tests.service.engine import oracle
from tests.service.engine.harness import running
from tests.service.engine.scripted import Gate, ScriptedRunner
from tests.service.engine.tiny_sessions import STATE_BYTES, TABLE, language_model


def test_sessions_keep_their_state_from_request_to_request(tmp_path: Path) -> None:
    with running(language_model(tmp_path)) as engine:
        states = {1: 0, 2: 0}
        for session in states:
            engine.open(session)
        for tokens in ([4], [5, 6], [4, 4, 4, 6]):
            for session in states:
                expected = []
                for token in tokens:
                    states[session] = tiny.next_hash(states[session], token + session % 2)
                    expected.append(oracle.best_tokens(TABLE, states[session], 3))
                assert engine.steps(session, [t + session % 2 for t in tokens], 3) == expected
        assert [engine.close(session) for session in states] == [7, 7]


def test_log_probabilities_belong_to_their_tokens(tmp_path: Path) -> None:
    with running(language_model(tmp_path)) as engine:
        engine.open(1)
        outputs = engine.outputs(engine.step(1, [4, 5], num_top=tiny.TOP_K))
        states = [tiny.next_hash(0, 4), tiny.next_hash(tiny.next_hash(0, 4), 5)]
        for row, state in enumerate(states):
            assert outputs.log_probs[row] == TABLE[state][outputs.token_ids[row]].tolist()
        engine.close(1)


def test_the_next_holder_of_a_slot_starts_from_the_initial_state(tmp_path: Path) -> None:
    with running(language_model(tmp_path, num_slots=4)) as engine:
        for session in range(1, 4):
            engine.open(session)
            assert engine.steps(session, [4]) == [oracle.best_tokens(TABLE, tiny.next_hash(0, 4), 1)]
            engine.close(session)


def test_a_request_of_many_steps_lets_others_in_between(tmp_path: Path) -> None:
    gate = Gate()
    runner = ScriptedRunner(language_model(tmp_path), lambda *_: gate.stop())
    with running(runner) as engine:
        for session in (1, 2):
            engine.open(session)
        long = engine.step(1, [4] * 5)
        gate.wait_inside()
        short = engine.step(2, [5])
        gate.open()
        engine.wait(long)
        assert runner.calls == [("step", 1), ("step", 2), ("step", 1), ("step", 1), ("step", 1)]
        assert list(engine.events).index(short) < list(engine.events).index(long)
        for session in (1, 2):
            engine.close(session)


def test_requests_of_a_session_run_in_order_and_its_close_last(tmp_path: Path) -> None:
    gate = Gate()
    runner = ScriptedRunner(language_model(tmp_path), lambda *_: gate.stop())
    with running(runner) as engine:
        engine.open(1)
        first = engine.step(1, [4, 5])
        gate.wait_inside()
        second, third = engine.step(1, [6]), engine.step(1, [4])
        close = engine.submit(CloseSession(engine.new_id(), 1))
        late = engine.step(1, [4])
        late_close = engine.submit(CloseSession(engine.new_id(), 1))
        gate.open()
        assert engine.num_steps(close) == 4
        assert isinstance(engine.error(late), SessionClosed)
        assert isinstance(engine.error(late_close), SessionClosed)
        order = [request for request in engine.events if request in (first, second, third, close)]
        assert order == [first, second, third, close]
        states = [tiny.next_hash(0, 4)]
        for token in (5, 6, 4):
            states.append(tiny.next_hash(states[-1], token))
        last = engine.outputs(third)
        assert list(last.token_ids) == [oracle.best_tokens(TABLE, states[-1], 1)]
        assert last.num_steps == 4
        assert isinstance(engine.error(engine.step(1, [4])), SessionNotFound)


def test_a_request_that_has_begun_is_taken_whole_and_one_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    gate = Gate()
    runner = ScriptedRunner(language_model(tmp_path), lambda *_: gate.stop())
    with running(runner) as engine:
        engine.open(1)
        long, queued = engine.step(1, [4] * 50), engine.step(1, [5])
        gate.wait_inside()
        gate.let_go()
        gate.wait_inside()  # in the second step
        engine.engine.cancel(long)
        engine.engine.cancel(queued)
        gate.open()
        assert engine.outputs(long).num_steps == 50
        assert isinstance(engine.wait(queued), Cancelled)
        assert len(runner.calls) == 50
        state = 0
        for token in [4] * 50 + [6]:
            state = tiny.next_hash(state, token)
        assert engine.steps(1, [6]) == [oracle.best_tokens(TABLE, state, 1)]
        assert engine.close(1) == 51


def test_sessions_beyond_the_limit_are_refused_until_one_closes(tmp_path: Path) -> None:
    with running(language_model(tmp_path), EngineLimits(session_slots=2, max_sessions=2)) as engine:
        engine.open(1)
        engine.open(2)
        refusal = engine.error(engine.submit(OpenSession(engine.new_id(), 3)))
        assert isinstance(refusal, Overloaded) and refusal.retry_after_s > 0
        assert "2 sessions are open" in str(refusal)
        engine.close(1)
        engine.open(4)
        for session in (2, 4):
            engine.close(session)


def test_more_sessions_than_slots_take_turns_and_keep_their_state(tmp_path: Path) -> None:
    """Two slots, five sessions and requests beside them: the least recently used leaves, and comes back as it was."""
    limits = EngineLimits(session_slots=2, max_sessions=5, max_host_bytes=3 * STATE_BYTES)
    with running(language_model(tmp_path, num_slots=5), limits) as engine:
        states = dict.fromkeys(range(1, 6), 0)
        for session in states:
            engine.open(session)
        for turn in range(4):
            requests = {}
            for session in states:
                states[session] = tiny.next_hash(states[session], 4 + (turn + session) % 3)
                requests[session] = engine.step(session, [4 + (turn + session) % 3])
            text = engine.submit(Generate(engine.new_id(), (2,), Sampling(0.0, 0, 1.0, 0), 3))
            for session, request in requests.items():
                assert list(engine.outputs(request).token_ids[0]) == oracle.best_tokens(TABLE, states[session], 1)
            engine.value(text)
            stats = engine.engine.stats()
            assert stats.free_slots >= 1 and stats.host_state_bytes == stats.max_host_state_bytes == 3 * STATE_BYTES
        assert [engine.close(session) for session in states] == [4] * 5


def test_a_state_that_comes_back_is_that_of_its_own_session(tmp_path: Path) -> None:
    limits = EngineLimits(session_slots=1, max_sessions=2, max_host_bytes=STATE_BYTES)
    with running(language_model(tmp_path), limits) as engine:
        for session, first in ((1, 4), (2, 5)):
            engine.open(session)
            engine.steps(session, [first])
        for session, first in ((1, 4), (2, 5)):
            state = tiny.next_hash(tiny.next_hash(0, first), 6)
            assert engine.steps(session, [6]) == [oracle.best_tokens(TABLE, state, 1)]
        for session in (1, 2):
            engine.close(session)


def test_a_session_that_host_memory_would_not_hold_is_refused_until_one_closes(tmp_path: Path) -> None:
    limits = EngineLimits(session_slots=2, max_sessions=9, max_host_bytes=2 * STATE_BYTES - 1)
    with running(language_model(tmp_path), limits) as engine:
        for session in (1, 2, 3):
            engine.open(session)
        refusal = engine.error(engine.submit(OpenSession(engine.new_id(), 4)))
        assert isinstance(refusal, Overloaded) and refusal.retry_after_s > 0
        assert f"{2 * STATE_BYTES - 1} bytes of session states in host memory" in str(refusal)
        mark = engine.error(engine.submit(MarkSession(engine.new_id(), 1, 7)))
        assert isinstance(mark, Overloaded)
        engine.close(2)
        engine.value(engine.submit(MarkSession(engine.new_id(), 1, 7)))
        assert isinstance(engine.error(engine.submit(OpenSession(engine.new_id(), 4))), Overloaded)
        engine.close(1)  # and its mark with it
        engine.open(4)
        engine.open(5)
        for session in (3, 4, 5):
            engine.close(session)


def test_a_step_that_is_sent_again_gets_its_answer_again(tmp_path: Path) -> None:
    def send(first_step: int, *tokens: int) -> RequestId:
        inputs = {"tokens": list(tokens)}
        return engine.submit(StepSession(engine.new_id(), 1, inputs, len(tokens), 3, first_step))

    limits = EngineLimits(session_slots=1, max_sessions=1, kept_answers=2)
    with running(language_model(tmp_path), limits) as engine:
        engine.open(1)
        answers = [engine.outputs(send(0, 4)), engine.outputs(send(1, 5, 6)), engine.outputs(send(3, 4))]
        for first, tokens, answer in ((1, (5, 6), answers[1]), (3, (4,), answers[2])):
            again = engine.outputs(send(first, *tokens))
            assert again.replayed and not answer.replayed
            assert list(map(list, again.token_ids)) == list(map(list, answer.token_ids))
            assert list(map(list, again.log_probs)) == list(map(list, answer.log_probs))
            assert again.num_steps == answer.num_steps
        for first, tokens in ((0, (4,)), (1, (5,)), (5, (4,))):  # forgotten, cut otherwise, ahead
            error = engine.error(send(first, *tokens))
            assert isinstance(error, StepMismatch)
            assert re.fullmatch(rf"step.first_step: expected 4, .*, got {first}", str(error))
        assert engine.close(1) == 4


def test_an_idle_session_ends_and_says_so_and_a_busy_one_does_not(tmp_path: Path) -> None:
    now = 0.0
    with running(language_model(tmp_path), clock=lambda: now) as engine:
        for session, idle_timeout_s in ((1, 10.0), (2, 30.0), (3, None)):
            engine.value(engine.submit(OpenSession(engine.new_id(), session, idle_timeout_s=idle_timeout_s)))
        engine.steps(1, [4, 5])
        now = 9.0
        engine.steps(1, [6])
        now = 18.0
        engine.open(4)  # a turn of the engine
        assert engine.ended == []
        now = 19.0
        engine.open(5)
        assert engine.ended == [SessionEnded(1, expired=True, num_steps=3)]
        assert isinstance(engine.error(engine.step(1, [4])), SessionNotFound)
        now = 1e6
        engine.close(4)
        assert engine.ended[1:] == [SessionEnded(2, expired=True, num_steps=0)]
        assert engine.engine.stats().sessions_expired == 2
        for session in (3, 5):
            engine.close(session)


@pytest.mark.parametrize(
    ("inputs", "num_steps"),
    [({"words": [4]}, 1), ({"tokens": [4, 5]}, 1), ({"tokens": [4], "more": [4]}, 1), ({}, 1), ({"tokens": []}, 0)],
)
def test_inputs_that_are_not_the_graphs_are_refused_before_they_reach_a_batch(
    tmp_path: Path, inputs: dict[str, list[int]], num_steps: int
) -> None:
    with running(language_model(tmp_path)) as engine:
        engine.open(1)
        refusal = engine.error(engine.submit(StepSession(engine.new_id(), 1, inputs, num_steps, 1)))
        assert isinstance(refusal, InvalidInput) and "'tokens'" in str(refusal)
        assert engine.close(1) == 0


@pytest.mark.parametrize("num_top", [-1, tiny.TOP_K + 1])
def test_more_outputs_than_the_graph_gives_are_refused_not_cut(tmp_path: Path, num_top: int) -> None:
    with running(language_model(tmp_path)) as engine:
        engine.open(1)
        refusal = engine.error(engine.step(1, [4], num_top))
        assert str(refusal) == f"num_top: expected 0 to {tiny.TOP_K}, got {num_top}"
        engine.close(1)
