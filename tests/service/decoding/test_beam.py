"""Beam search against enumeration and against the independent one of `models.beam`."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.beam import Beam
from service.decoding.beam import BeamSearch, length_penalty
from service.decoding.errors import NotANumber
from service.decoding.greedy import GreedySearch
from service.engine.interface import Hypothesis
from tests.service import tiny_models as tiny

END, BEGIN = 3, 2
Table = npt.NDArray[np.float32]
REAL_TOKENS = (1, 4, 5, 6)


def top(table: Table, state: int, k: int) -> tuple[list[float], list[int]]:
    order = np.argsort(-table[state], kind="stable")[:k]
    return table[state][order].tolist(), order.tolist()


def search_with(search: BeamSearch | GreedySearch, table: Table, k: int = tiny.VOCABULARY) -> list[list[int]]:
    """Drive a search over the tiny model; returns the tokens that each step decided."""
    decided = []
    states = [0]
    while not search.done:
        states = [
            tiny.next_hash(states[parent], token) for parent, token in zip(search.parents, search.tokens, strict=True)
        ]
        rows = [top(table, state, k) for state in states]
        step = search.advance([row[0] for row in rows], [row[1] for row in rows])
        decided.append([token for token, _ in step])
    return decided


def log_prob_of(table: Table, tokens: Sequence[int]) -> float:
    state, total = 0, 0.0
    for before, token in itertools.pairwise((BEGIN, *tokens)):
        state = tiny.next_hash(state, before)
        total += float(table[state, token])
    return total


def enumerate_best(table: Table, max_tokens: int, alpha: float) -> list[Hypothesis]:
    """Every answer there is, best first."""
    answers = []
    for length in range(max_tokens + 1):
        for tokens in itertools.product(REAL_TOKENS, repeat=length):
            cut = length == max_tokens
            total = log_prob_of(table, tokens if cut else (*tokens, END))
            score = total / length_penalty(length if cut else length + 1, alpha)
            answers.append(Hypothesis(tokens, total, score, "length" if cut else "end"))
    return sorted(answers, key=lambda answer: -answer.score)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_wide_enough_finds_the_best_of_all_answers(seed: int, alpha: float) -> None:
    table = tiny.make_table(seed)
    search = BeamSearch(200, 5, alpha, 3, BEGIN, END)
    search_with(search, table)
    expected = enumerate_best(table, 3, alpha)[:5]
    for got, best in zip(search.hypotheses(), expected, strict=True):
        assert (got.tokens, got.finish_reason) == (best.tokens, best.finish_reason)
        assert got.log_prob == pytest.approx(best.log_prob, abs=1e-6)
        assert got.score == pytest.approx(best.score, abs=1e-6)


cases = given(
    seed=st.integers(0, 10_000),
    beam_size=st.integers(2, 5),
    alpha=st.sampled_from([0.0, 0.3, 0.6, 1.0, 2.0]),
    max_tokens=st.integers(1, 12),
    sharpness=st.sampled_from([0.2, 1.0, 3.0]),
)


@cases
@settings(max_examples=150, deadline=None)
def test_it_agrees_with_the_search_of_training(
    seed: int, beam_size: int, alpha: float, max_tokens: int, sharpness: float
) -> None:
    table = tiny.make_table(seed, sharpness=sharpness)
    search = BeamSearch(beam_size, beam_size, alpha, max_tokens, BEGIN, END)
    search_with(search, table)
    beam = Beam(beam_size, alpha, max_tokens)
    states = [tiny.next_hash(0, BEGIN)]
    while beam.live:
        rows = [top(table, state, min(2 * beam_size, tiny.VOCABULARY)) for state in states]
        parents = beam.advance([row[0] for row in rows], [row[1] for row in rows])
        states = [
            tiny.next_hash(states[parent], tokens[-1]) for parent, (tokens, _) in zip(parents, beam.live, strict=True)
        ]
    expected = [(h.tokens, h.log_prob, h.score, h.finish_reason) for h in beam.best(beam_size)]
    assert [(h.tokens, h.log_prob, h.score, h.finish_reason) for h in search.hypotheses()] == expected


@cases
@settings(max_examples=150, deadline=None)
def test_streamed_tokens_are_always_a_prefix_of_the_best_answer_and_complete_at_the_end(
    seed: int, beam_size: int, alpha: float, max_tokens: int, sharpness: float
) -> None:
    search = BeamSearch(beam_size, 1, alpha, max_tokens, BEGIN, END)
    streamed = list(itertools.chain(*search_with(search, tiny.make_table(seed, sharpness=sharpness))))
    # Tokens are never taken back, so that the whole stream is the answer means that each part was a prefix.
    assert streamed == list(search.hypotheses()[0].tokens)


def test_tokens_are_streamed_as_soon_as_no_hypothesis_disagrees() -> None:
    search = BeamSearch(2, 1, 0.0, 10, BEGIN, END)
    assert search.advance([[-0.1, -3.0, -9.0, -9.5]], [[4, 5, END, 1]]) == []
    # Both live hypotheses now continue token 4, so it is certain; its log-probability comes with it.
    step = search.advance([[-0.5, -0.6, -9.0, -9.5], [-0.2, -9.0, -9.1, -9.5]], [[5, 6, END, 1], [4, 5, END, 1]])
    assert step == [(4, -0.1)]
    assert search.parents == [0, 0]
    assert search.tokens == [5, 6]


def test_a_finished_hypothesis_that_may_still_win_holds_the_stream_back() -> None:
    search = BeamSearch(2, 1, 0.0, 10, BEGIN, END)
    search.advance([[-0.1, -3.0, -9.0, -9.5]], [[4, 5, END, 1]])
    # 4 </s> has -1.1; the live 4 6 with -0.6 leads, and both say 4: that much is certain and no more.
    step = search.advance([[-0.5, -1.0, -9.0, -9.5], [-9.0, -9.0, -9.1, -9.5]], [[6, END, 5, 1], [4, 5, END, 1]])
    assert [token for token, _ in step] == [4]
    # 4 6 falls to -5.6 and cannot beat -1.1 any more: the answer is 4 alone, and nothing is added to the stream.
    search.advance([[-5.0, -6.0, -9.0, -9.5], [-9.0, -9.0, -9.1, -9.5]], [[6, 5, END, 1], [4, 5, END, 1]])
    assert search.hypotheses()[0].tokens == (4,)


def test_tokens_that_can_never_come_are_no_candidates() -> None:
    search = BeamSearch(3, 3, 0.6, 1, BEGIN, END)
    search.advance([[-0.5, -1.0, -1e9, -1e9]], [[4, END, 0, 2]])
    assert search.done
    assert {hypothesis.tokens for hypothesis in search.hypotheses()} == {(4,), ()}


@pytest.mark.parametrize("seed", range(20))
def test_greedy_takes_the_best_token_of_each_step(seed: int) -> None:
    table = tiny.make_table(seed)
    search = GreedySearch(0.6, 8, BEGIN, END)
    decided = list(itertools.chain(*search_with(search, table)))
    state, token, expected = 0, BEGIN, list[int]()
    while len(expected) < 8:
        state = tiny.next_hash(state, token)
        token = int(table[state].argmax())
        if token == END:
            break
        expected.append(token)
    [best] = search.hypotheses()
    assert decided == list(best.tokens) == expected
    assert best.finish_reason == ("end" if len(expected) < 8 else "length")
    scored = expected if best.finish_reason == "length" else [*expected, END]
    assert best.log_prob == pytest.approx(log_prob_of(table, scored))
    assert best.score == pytest.approx(best.log_prob / length_penalty(len(scored), 0.6))


@pytest.mark.parametrize("arguments", [(2, 3, 8), (2, 0, 8), (2, 1, 0)])
def test_impossible_searches_are_refused(arguments: tuple[int, int, int]) -> None:
    beam_size, num_best, max_tokens = arguments
    with pytest.raises(ValueError, match=r"expected 1 <= num_best <= beam_size and max_tokens >= 1, got"):
        BeamSearch(beam_size, num_best, 0.6, max_tokens, BEGIN, END)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        GreedySearch(0.6, 0, BEGIN, END)


@pytest.mark.parametrize("search", [BeamSearch(2, 1, 0.6, 10, BEGIN, END), GreedySearch(0.6, 10, BEGIN, END)])
def test_a_row_that_is_no_number_is_refused_by_name(search: BeamSearch | GreedySearch) -> None:
    with pytest.raises(NotANumber, match="got NaN"):
        search.advance([[float("nan"), float("nan"), -1e9, -1e9]], [[4, 5, 0, 2]])


def test_one_broken_row_among_good_ones_is_refused_too() -> None:
    search = BeamSearch(2, 1, 0.6, 10, BEGIN, END)
    search.advance([[-0.5, -1.0, -2.0, -3.0]], [[4, 5, 6, END]])
    with pytest.raises(NotANumber, match="got NaN"):
        search.advance([[-0.5, -1.0, -2.0, -3.0], [-0.5, -1.0, float("nan"), -3.0]], [[4, 5, 6, END]] * 2)


def test_a_row_of_nothing_that_may_come_is_refused_by_name() -> None:
    with pytest.raises(NotANumber, match="a token that may come"):
        BeamSearch(2, 1, 0.6, 10, BEGIN, END).advance([[-1e9, -1e9]], [[0, 2]])
