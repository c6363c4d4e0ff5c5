"""The raw runtime that the service is measured and checked against must itself be right."""

from pathlib import Path

import pytest
import torch

from bench.__main__ import check, quantile
from bench.ceiling import Ceiling
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


def test_a_service_that_answers_otherwise_fails_and_the_step_is_named(ceiling: Ceiling) -> None:
    right = torch_answers(3)
    check(ceiling, {"checked": {"3": right}})
    wrong = [*right[:5], (right[5] + 1) % 30, *right[6:]]
    with pytest.raises(SystemExit, match=f"session 3 step 5: expected token {right[5]}, got {wrong[5]}"):
        check(ceiling, {"checked": {"0": ceiling.answers(0, 4), "3": wrong}})


def test_tokens_are_words_and_spread() -> None:
    drawn = [token(session, step, 30) for session in range(20) for step in range(20)]
    assert set(drawn) == set(range(4, 30))


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([5.0], 0.99)) == (51.0, 100.0, 5.0)
