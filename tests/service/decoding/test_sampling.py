"""Sampling against exact probabilities, and the noise against what it must be a function of."""

import math
import timeit
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.decoding.errors import NotANumber
from service.decoding.sampling import Sampler, noise, sample
from service.engine.interface import Sampling

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=7)


def row(*probabilities: float) -> npt.NDArray[np.float32]:
    log_probs: npt.NDArray[np.float32] = np.log(np.array(probabilities)).astype(np.float32)
    return log_probs


def frequencies(log_probs: npt.NDArray[np.float32], sampling: Sampling, count: int = 4000) -> npt.NDArray[np.float64]:
    drawn = [sample(log_probs, sampling, position) for position in range(count)]
    return np.bincount(drawn, minlength=len(log_probs)) / count


def kept_by_definition(probabilities: list[float], temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """Temperature, top-k and top-p said plainly, with a full sort; ties go to the lower id."""
    powered = [p ** (1 / temperature) for p in probabilities]
    ranked = sorted(range(len(powered)), key=lambda i: (-powered[i], i))[: top_k or None]
    total = sum(powered[i] for i in ranked)
    kept, mass = [], 0.0
    for i in ranked:
        kept.append(i)
        mass += powered[i] / total
        if mass >= top_p - 1e-12:
            break
    total = sum(powered[i] for i in kept)
    return {i: powered[i] / total for i in kept}


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.7), (1.0, 0, 0.05), (1.5, 4, 0.8)],
)
def test_tokens_come_as_often_as_their_probability_says(temperature: float, top_k: int, top_p: float) -> None:
    probabilities = [0.1, 0.3, 0.05, 0.25, 0.2, 0.1]
    expected = kept_by_definition(probabilities, temperature, top_k, top_p)
    got = frequencies(row(*probabilities), replace(PLAIN, temperature=temperature, top_k=top_k, top_p=top_p))
    for token, frequency in enumerate(got):
        probability = expected.get(token, 0.0)
        # Five standard deviations of a binomial frequency; exactly 0 for what is cut off.
        assert abs(frequency - probability) <= 5 * math.sqrt(probability * (1 - probability) / 4000)


def test_a_large_vocabulary_keeps_the_same_nucleus_as_a_full_sort() -> None:
    generator = np.random.default_rng(0)
    for sharpness in (0.1, 3.0):  # a nucleus of thousands, and one of a few
        logits = generator.normal(size=3000) * sharpness
        log_probs = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
        kept = kept_by_definition(np.exp(log_probs.astype(np.float64)).tolist(), 1.0, 0, 0.9)
        drawn = {sample(log_probs, replace(PLAIN, top_p=0.9), position) for position in range(500)}
        assert drawn <= kept.keys()
        heaviest = max(kept, key=lambda token: kept[token])
        assert sample(log_probs, replace(PLAIN, top_p=1e-6), 3) == heaviest


@given(
    weights=st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=40),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0.05, 10.0),
        top_k=st.integers(0, 45),
        top_p=st.floats(0.01, 1.0),
        seed=st.integers(0, 2**64 - 1),
    ),
    position=st.integers(0, 10_000),
)
@settings(max_examples=150, deadline=None)
def test_only_tokens_that_are_kept_by_definition_are_drawn(
    weights: list[float], sampling: Sampling, position: int
) -> None:
    log_probs = row(*(weight / sum(weights) for weight in weights))
    token = sample(log_probs, sampling, position)
    exact = np.exp(log_probs.astype(np.float64)).tolist()
    # A sum that comes out at top_p to the last bits of a float may go either way.
    assert token in kept_by_definition(exact, sampling.temperature, sampling.top_k, min(1.0, sampling.top_p + 1e-6))
    # Alone or as a row of any batch: a function of the row and (seed, position).
    batch = np.stack([log_probs[::-1], log_probs, np.roll(log_probs, 1)])
    assert sample(batch[1], sampling, position) == token


@given(
    weights=st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0]), min_size=4, max_size=40),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0.05, 10.0),
        top_k=st.integers(1, 4),
        top_p=st.floats(0.01, 1.0),
        seed=st.integers(0, 2**64 - 1),
    ),
    spare=st.integers(0, 3),
)
@settings(deadline=None)
def test_the_best_alone_give_the_token_that_the_whole_row_gives(
    weights: list[float], sampling: Sampling, spare: int
) -> None:
    log_probs = row(*(weight / sum(weights) for weight in weights))
    best = np.argsort(-log_probs, kind="stable")[: sampling.top_k + spare]
    expected = sample(log_probs, sampling, 0)
    sampler = Sampler(sampling, (), 1)
    assert sampler.num_needed == sampling.top_k
    assert sampler.draw_from_top(log_probs[best], best) == (expected, float(log_probs[expected]))


def test_equal_weights_at_the_edge_of_top_k_go_to_the_lower_ids() -> None:
    got = frequencies(row(0.2, 0.2, 0.2, 0.2, 0.2), replace(PLAIN, top_k=2), 200)
    assert set(np.flatnonzero(got)) == {0, 1}


def test_temperature_zero_is_greedy_whatever_the_noise() -> None:
    greedy = replace(PLAIN, temperature=0.0)
    assert {sample(row(0.2, 0.5, 0.3), greedy, position) for position in range(50)} == {1}


def test_where_a_row_lies_in_memory_does_not_matter() -> None:
    """An odd vocabulary: every row of a batch starts at another alignment, where vector code may take other paths."""
    generator = np.random.default_rng(3)
    one = np.log(generator.dirichlet(np.full(9_999, 0.5)) + 1e-12).astype(np.float32)
    batch = np.tile(one, (16, 1))
    for sampling in (PLAIN, replace(PLAIN, temperature=0.7, top_p=0.9), replace(PLAIN, top_k=40)):
        for position in range(20):
            assert {sample(row, sampling, position) for row in batch} == {sample(one, sampling, position)}


def test_the_row_is_read_and_not_written() -> None:
    batch = np.stack([row(0.5, 0.3, 0.2), row(0.2, 0.3, 0.5)])
    batch.flags.writeable = False
    sampler = Sampler(replace(PLAIN, temperature=0.7, top_p=0.9, repetition_penalty=2.0), (1,), 4)
    for _ in range(4):
        sampler.draw(batch[1])


def test_what_can_never_come_never_comes() -> None:
    log_probs = row(0.5, 0.5, 0.5)
    log_probs[0] = -1e9
    got = frequencies(log_probs, replace(PLAIN, temperature=10.0), 500)
    assert got[0] == 0


def test_the_noise_is_a_function_of_seed_and_position_and_uniform() -> None:
    drawn = np.array([noise(5, position) for position in range(4000)])
    np.testing.assert_array_equal(drawn, [noise(5, position) for position in range(4000)])
    assert ((drawn >= 0) & (drawn < 1)).all()
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 50  # chi-squared, 19 degrees of freedom: p about 1e-4
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.1
    other_seed = np.array([noise(6, position) for position in range(4000)])
    assert abs(np.corrcoef(drawn, other_seed)[0, 1]) < 0.1
    assert noise(2**64 - 1, 0) != noise(0, 0)


def test_all_of_a_large_vocabulary_is_drawn_from_as_its_probabilities_say() -> None:
    """Against the same noise on one running sum in float64, over many blocks and some without weight."""
    generator = np.random.default_rng(1)
    log_probs = np.log(generator.dirichlet(np.full(5000, 0.3))).astype(np.float32)
    log_probs[512:1024] = -1e9
    log_probs[4900:] = -1e9
    cumulative = np.exp(log_probs.astype(np.float64)).cumsum()
    expected = [int(np.searchsorted(cumulative, noise(7, i) * cumulative[-1], side="right")) for i in range(2000)]
    drawn = [sample(log_probs, PLAIN, i) for i in range(2000)]
    assert np.mean(np.array(drawn) == np.array(expected)) > 0.995  # float32 moves the edges by a hair
    assert (log_probs[drawn] > -1e9).all()


def draw_by_definition(log_probs: npt.NDArray[np.float32], sampling: Sampling, position: int) -> int:
    exact = np.exp(log_probs.astype(np.float64)).tolist()
    shares = kept_by_definition(exact, sampling.temperature, sampling.top_k, sampling.top_p)
    tokens = sorted(shares)
    cumulative = np.cumsum([shares[token] for token in tokens])
    return tokens[int(np.searchsorted(cumulative, noise(sampling.seed, position) * cumulative[-1], side="right"))]


@pytest.mark.parametrize(
    "sampling",
    [replace(PLAIN, top_p=0.95), replace(PLAIN, temperature=3.0, top_p=0.7), replace(PLAIN, top_k=5, top_p=0.9)],
)
def test_every_part_of_a_wide_nucleus_is_drawn_from(sampling: Sampling) -> None:
    log_probs = np.log(np.random.default_rng(2).dirichlet(np.full(2000, 0.2)) + 1e-12).astype(np.float32)
    drawn = [sample(log_probs, sampling, i) for i in range(200)]
    expected = [draw_by_definition(log_probs, sampling, i) for i in range(200)]
    assert np.mean(np.array(drawn) == np.array(expected)) > 0.98  # float32 moves the edges by a hair


def test_the_best_are_found_wherever_they_lie() -> None:
    one_a_block, side_by_side = np.arange(0, 2560, 256) + 7, np.arange(500, 510)
    for best in (one_a_block, side_by_side):
        log_probs = np.full(2560, -20.0, dtype=np.float32)
        log_probs[best] = np.linspace(-1.0, -2.0, 10)
        drawn = {sample(log_probs, replace(PLAIN, temperature=5.0, top_k=10), i) for i in range(300)}
        assert drawn == set(best.tolist())


@pytest.mark.parametrize("sampling", [PLAIN, replace(PLAIN, temperature=0.0), replace(PLAIN, top_k=2, top_p=0.5)])
def test_a_row_that_is_no_number_is_refused_by_name(sampling: Sampling) -> None:
    broken = row(0.5, 0.25, 0.25)
    broken[1] = np.nan
    with pytest.raises(NotANumber, match="got NaN"):
        sample(broken, sampling, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling", [PLAIN, replace(PLAIN, temperature=0.8, top_k=40), replace(PLAIN, temperature=0.8, top_p=0.9)]
)
def test_drawing_from_a_large_vocabulary_is_far_from_sorting_it(sampling: Sampling) -> None:
    """The engine waits meanwhile. The best of many tries, so that a busy machine does not matter."""
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.full(33278, 0.1)) + 1e-30).astype(np.float32)
    drawing = min(timeit.repeat(lambda: sample(log_probs, sampling, 3), number=5, repeat=60))
    sorting = min(timeit.repeat(lambda: log_probs.argsort(kind="stable"), number=5, repeat=60))
    assert drawing < sorting / 4
