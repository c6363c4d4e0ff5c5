"""What the peers are judged by, and the table of states that they all run, against the pooled graph."""

from pathlib import Path

import numpy as np
import pytest

from bench.ceiling import Ceiling
from bench.peers.answers import RightAnswers
from bench.peers.table import StateTable
from bench.tokens import token

VOCABULARY = 30
STEPS = 12


def request(session: int, step: int) -> list[int]:
    return [session, step, token(session, step, VOCABULARY)]


@pytest.mark.parametrize("session", [0, 9])
def test_right_is_what_the_pooled_graph_says(session: int, bundle: Path, right: RightAnswers) -> None:
    expected = Ceiling.open(bundle, threads=1, slots=4).answers(session, STEPS)
    assert len(set(expected)) > 1
    assert right.vocabulary == VOCABULARY
    assert right.of(session, STEPS)[:, 0].tolist() == expected
    assert right.of(session, 3)[:, 0].tolist() == expected[:3]


def test_sessions_in_one_batch_at_different_steps_keep_their_states(plain_graph: Path, right: RightAnswers) -> None:
    table, random = StateTable(str(plain_graph), threads=1, capacity=8), np.random.default_rng(3)
    taken = dict.fromkeys(range(8), 0)
    for _ in range(40):
        chosen = random.permutation(8)[: random.integers(1, 9)].tolist()
        answers = table.step(np.array([request(session, taken[session]) for session in chosen]))
        for session, (best, log_prob) in zip(chosen, answers.tolist(), strict=True):
            expected = right.of(session, taken[session] + 1)[-1]
            assert (best, log_prob) == (expected[0], pytest.approx(expected[1], abs=1e-5))
            taken[session] = (taken[session] + 1) % 6  # and then it starts afresh


def test_a_table_tells_lost_order(plain_graph: Path) -> None:
    table = StateTable(str(plain_graph), threads=1, capacity=2)
    table.step(np.array([request(5, 0)]))
    with pytest.raises(ValueError, match="session 5: expected step 1, got 2"):
        table.step(np.array([request(5, 2)]))
    with pytest.raises(ValueError, match="expected each once"):
        table.step(np.array([request(5, 1), request(5, 2)]))
    assert table.step(np.array([request(5, 1)])).shape == (1, 2)


def test_a_wrong_answer_is_named(right: RightAnswers) -> None:
    steps = np.arange(5)
    tokens, log_probs = right.of(2, 5).T.copy()
    assert right.check(2, steps, tokens.astype(np.int64), log_probs) is None
    assert right.check(2, steps, tokens.astype(np.int64), log_probs + np.float32(5e-5)) is None
    other = tokens.astype(np.int64)
    other[3] = (other[3] + 1) % VOCABULARY
    expected = f"session 2 step 3: expected token {tokens[3]:.0f} at {log_probs[3]:.5f}, got token {other[3]}"
    assert right.check(2, steps, other, None) == expected
    late = log_probs.copy()
    late[4] += 1e-3
    assert (right.check(2, steps, tokens.astype(np.int64), late) or "").startswith("session 2 step 4: expected")
    assert "nan" in (right.check(2, steps, tokens.astype(np.int64), np.full(5, np.nan)) or "")


def test_the_answers_of_another_step_or_session_are_wrong(right: RightAnswers) -> None:
    tokens, log_probs = right.of(2, 6).T
    assert right.check(2, np.arange(5), tokens[1:].astype(np.int64), log_probs[1:])
    assert right.check(3, np.arange(6), tokens.astype(np.int64), log_probs)


def test_equally_probable_tokens_are_both_right(right: RightAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    almost = np.full(VOCABULARY, -5.0, np.float32)
    almost[[7, 9]] = -1.0, -1.00005
    monkeypatch.setattr(right, "_follow", lambda session, steps: iter([almost] * steps))
    first = np.array([0])
    assert right.check(0, first, np.array([7]), None) is None
    assert right.check(0, first, np.array([9]), None) is None
    assert right.check(0, first, np.array([9]), np.array([-1.00005])) is None
    assert right.check(0, first, np.array([8]), None)
    assert right.check(0, first, np.array([-1]), None)


def test_answers_are_kept_for_the_next_time(plain_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RightAnswers(plain_graph, tmp_path / "cache")
    known = first.of(4, STEPS).copy()
    first.save()
    again = RightAnswers(plain_graph, tmp_path / "cache")
    monkeypatch.setattr(again, "_follow", None)  # cannot be asked
    assert np.array_equal(again.of(4, STEPS), known)
