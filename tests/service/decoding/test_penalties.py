"""Penalties against their definition over the whole vocabulary, and the model's best against whole rows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.symbols import NEVER_LOG_PROB
from service.decoding.errors import NotANumber
from service.decoding.penalties import Penalties
from service.decoding.sampling import Sampler, sample
from service.engine.interface import Sampling

Row = npt.NDArray[np.float32]
PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=7)
SAMPLING = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.integers(0, 4),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**64 - 1),
    repetition_penalty=st.sampled_from([1.0, 1.3, 4.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5, 2.0, -1.0]),
    presence_penalty=st.sampled_from([0.0, 0.7, -0.5]),
)


def penalised(log_probs: Row, sampling: Sampling, prompt: list[int], text: list[int]) -> Row:
    """As the API says it, over the whole vocabulary, in torch."""
    row = torch.from_numpy(log_probs)
    counts = torch.bincount(torch.tensor(text, dtype=torch.int64), minlength=len(row)).double()
    seen = counts.bool()
    seen[prompt] = True
    costs = sampling.frequency_penalty * counts + sampling.presence_penalty * counts.bool()
    result: Row = (torch.where(seen, row * sampling.repetition_penalty, row) - costs.float()).numpy()
    return result


def make_row(seed: int, size: int, levels: int) -> Row:
    """Log-probabilities with ties, and two entries that never come."""
    logits = np.random.default_rng(seed).integers(0, levels, size) / 2
    row: Row = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
    row[[0, 2]] = NEVER_LOG_PROB
    return row


def best_of(row: Row, count: int) -> tuple[Row, npt.NDArray[np.int64]]:
    best = np.argsort(-row, kind="stable")[:count]
    return row[best], best


@given(
    sampling=SAMPLING,
    prompt=st.lists(st.integers(0, 19), max_size=6),
    seed=st.integers(0, 10_000),
    levels=st.integers(1, 12),
    num_top=st.integers(1, 20),
)
@settings(max_examples=100, deadline=None)
def test_a_text_is_what_penalties_over_the_whole_vocabulary_give(
    sampling: Sampling, prompt: list[int], seed: int, levels: int, num_top: int
) -> None:
    """Twelve tokens, each drawn from the model's best where the sampler says that they are enough."""
    sampler = Sampler(sampling, tuple(prompt), 12)
    text: list[int] = []
    for position in range(12):
        log_probs = make_row(seed + position, 20, levels)
        expected = sample(penalised(log_probs, sampling, prompt, text), sampling, position)
        from_top = 0 < sampler.num_needed <= num_top
        got = sampler.draw_from_top(*best_of(log_probs, num_top)) if from_top else sampler.draw(log_probs)
        assert got == (expected, float(log_probs[expected]))
        text.append(expected)


def test_as_many_of_the_best_as_are_asked_for_are_enough_and_one_less_is_not() -> None:
    log_probs = np.log(np.array([0.3, 0.25, 0.2, 0.15, 0.1], np.float32))
    greedy = replace(PLAIN, temperature=0.0, repetition_penalty=10.0)
    prompt = (0, 1, 2)
    assert Sampler(greedy, prompt, 1).num_needed == 4
    assert Sampler(greedy, prompt, 1).draw_from_top(*best_of(log_probs, 4))[0] == 3
    assert int(penalised(log_probs[:3], greedy, [0, 1, 2], []).argmax()) != 3


@pytest.mark.parametrize("raising", [replace(PLAIN, frequency_penalty=-1.0), replace(PLAIN, presence_penalty=-1.0)])
def test_what_may_raise_a_token_needs_the_whole_row(raising: Sampling) -> None:
    assert Sampler(replace(raising, temperature=0.0), (4, 5), 3).num_needed == 0
    assert Sampler(replace(raising, top_k=2), (4, 5), 3).num_needed == 0


def test_the_prompt_counts_for_repetition_alone() -> None:
    log_probs = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    greedy = replace(PLAIN, temperature=0.0)
    for others in (replace(greedy, frequency_penalty=2.0), replace(greedy, presence_penalty=2.0)):
        sampler = Sampler(others, (0, 0, 0), 2)
        assert [sampler.draw(log_probs)[0], sampler.draw(log_probs)[0]] == [0, 1]
    repeated = Sampler(replace(greedy, repetition_penalty=3.0), (0, 0, 0), 2)
    assert repeated.draw(log_probs)[0] == 1


def test_frequency_counts_each_time_and_presence_once() -> None:
    row = np.zeros(4, np.float32)
    frequency, presence = replace(PLAIN, frequency_penalty=0.5), replace(PLAIN, presence_penalty=0.5)
    for sampling, costs in ((frequency, [1.5, 0.5]), (presence, [0.5, 0.5])):
        penalties = Penalties(sampling, (), 4)
        for token in (1, 1, 3, 1):
            penalties.add(token)
        np.testing.assert_array_equal(penalties.apply(row), -np.array([0.0, costs[0], 0.0, costs[1]], np.float32))


def test_without_penalties_the_row_itself_is_used() -> None:
    penalties = Penalties(PLAIN, (1, 2), 3)
    penalties.add(1)
    row = np.zeros(4, np.float32)
    assert penalties.apply(row) is row and penalties.none
    assert Sampler(replace(PLAIN, temperature=0.0), (1,), 3).takes_best
    assert not Sampler(replace(PLAIN, temperature=0.0, presence_penalty=0.1), (1,), 3).takes_best
    assert not Sampler(PLAIN, (1,), 3).takes_best


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_no_number_is_refused_with_penalties_too(temperature: float) -> None:
    broken = np.array([-1.0, np.nan, -1.0], np.float32)
    sampler = Sampler(replace(PLAIN, temperature=temperature, presence_penalty=1.0), (1,), 3)
    with pytest.raises(NotANumber, match="got NaN"):
        sampler.draw(broken)
