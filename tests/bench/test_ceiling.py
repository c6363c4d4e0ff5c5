"""The raw runtime that the service is measured and checked against must itself be right."""

from pathlib import Path

import pytest
import torch

from bench.ceiling import Ceiling, run_side_by_side
from bench.steps import Checker
from bench.tokens import token
from models.build import build_model
from models.config import LanguageModelConfig
from models.language_model import LanguageModel

STEPS = 12


@pytest.fixture(scope="module")
def ceiling(bundle: Path) -> Ceiling:
    return Ceiling.open(bundle, threads=1, slots=10)


def torch_answers(session: int) -> list[int]:
    """The same by PyTorch: the best next token after each step."""
    torch.manual_seed(0)
    model = build_model(LanguageModelConfig(cell="lstm", dim=6, hidden=8, layers=2, dropout=0.0), {"tokens": 30})
    assert isinstance(model, LanguageModel)
    states, best = model.eval().initial_states(1), []
    with torch.inference_mode():
        for step in range(STEPS):
            log_probs, states = model.step(torch.tensor([token(session, step, 30)]), states)
            best.append(int(log_probs.argmax()))
    return best


@pytest.mark.parametrize("session", [0, 7])
def test_answers_are_those_of_torch_whatever_ran_before(session: int, ceiling: Ceiling) -> None:
    expected = torch_answers(session)
    assert ceiling.vocabulary == 30
    assert len(set(expected)) > 1, "the answers say something"
    assert ceiling.answers(session, STEPS) == expected
    ceiling.steps_per_s(rows=8, seconds=0.01)
    assert ceiling.answers(session, STEPS) == expected


def test_a_rate_is_rows_times_runs_over_the_time_they_took(ceiling: Ceiling) -> None:
    rate, times = ceiling.steps_per_s(rows=4, seconds=0.1)
    took = 4 * len(times) / rate
    assert sum(times) / 1e3 <= took and took >= 0.1
    assert len(times) > 1 and all(time > 0 for time in times)


def test_runners_side_by_side_count_together_and_disturb_nobody(ceiling: Ceiling) -> None:
    rate, times = ceiling.steps_per_s(rows=4, seconds=0.1, runners=2)
    assert ceiling.session.get_session_options().intra_op_num_threads == 1
    assert 0 < rate <= 4 * len(times) / 0.1
    assert ceiling.answers(0, STEPS) == torch_answers(0)


def test_what_breaks_in_a_runner_is_raised() -> None:
    def work(runner: int) -> None:
        if runner == 1:
            raise ArithmeticError("one")

    with pytest.raises(ArithmeticError, match="one"):
        run_side_by_side(work, 3)
    with pytest.raises(ArithmeticError, match="one"):
        run_side_by_side(lambda _: work(1), 1)


def test_answers_follow_the_inputs_that_are_given(ceiling: Ceiling) -> None:
    inputs = [token(7, step, 30) for step in range(STEPS)]
    assert ceiling.answers_to(inputs) == torch_answers(7)
    assert ceiling.answers_to(inputs[1:]) != torch_answers(7)[1:]


def test_a_service_that_answers_otherwise_fails_and_the_step_is_named(ceiling: Ceiling) -> None:
    checker = Checker(ceiling)

    def kept(session: int, answers: list[int]) -> dict[str, object]:
        return {"session": session, "inputs": [token(session, t, 30) for t in range(len(answers))], "answers": answers}

    right = torch_answers(3)
    assert checker.check({"checked": [kept(3, right)]}) == STEPS
    wrong = [*right[:5], (right[5] + 1) % 30, *right[6:]]
    with pytest.raises(SystemExit, match=f"session 3 step 5: expected token {right[5]}, got {wrong[5]}"):
        checker.check({"checked": [kept(0, ceiling.answers(0, 4)), kept(3, wrong)]})
    with pytest.raises(SystemExit, match="expected answers to check, got none"):
        checker.check({"checked": []})


def test_tokens_are_words_and_spread() -> None:
    drawn = [token(session, step, 30) for session in range(20) for step in range(20)]
    assert set(drawn) == set(range(4, 30))
