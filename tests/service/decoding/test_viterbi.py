"""Viterbi against the enumeration of every path."""

import itertools

import numpy as np
import pytest

from service.decoding.viterbi import viterbi


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("num_tags", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_it_finds_the_best_of_all_paths(length: int, num_tags: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    emissions = generator.normal(size=(length, num_tags)).astype(np.float32)
    start, end = generator.normal(size=(2, num_tags)).astype(np.float32)
    transitions = generator.normal(size=(num_tags, num_tags)).astype(np.float32) * 2

    def score(path: tuple[int, ...]) -> float:
        steps = sum(float(transitions[a, b]) for a, b in itertools.pairwise(path))
        return float(start[path[0]] + end[path[-1]]) + steps + sum(float(emissions[t, k]) for t, k in enumerate(path))

    best = max(itertools.product(range(num_tags), repeat=length), key=score)
    assert viterbi(emissions, start, end, transitions) == list(best)


def test_ties_go_to_the_lower_tag() -> None:
    zeros = np.zeros(3, dtype=np.float32)
    assert viterbi(np.zeros((4, 3), dtype=np.float32), zeros, zeros, np.zeros((3, 3), dtype=np.float32)) == [0] * 4


@pytest.mark.parametrize("length", [0, 2])
def test_shapes_that_do_not_fit_are_refused(length: int) -> None:
    three, two = np.zeros(3, dtype=np.float32), np.zeros(2, dtype=np.float32)
    square = np.zeros((3, 3), dtype=np.float32)
    with pytest.raises(ValueError, match=r"expected \(T, K\)"):
        viterbi(np.zeros((length, 3), dtype=np.float32), three, two if length else three, square)
