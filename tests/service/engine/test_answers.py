import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from service.engine.answers import find_answer, pack_answer
from service.engine.interface import StepOutputs

INPUTS: Mapping[str, Sequence[Any]] = {"tokens": [4, 5], "characters": [[1, 2], [3]]}


def outputs(rng: random.Random, first: int) -> StepOutputs:
    num_steps, num_top = rng.randint(1, 5), rng.randint(0, 4)
    ids = [[rng.randrange(2**31) for _ in range(num_top)] for _ in range(num_steps)]
    log_probs = [[rng.randrange(-(2**20), 0) / 4096 for _ in range(num_top)] for _ in range(num_steps)]
    return StepOutputs(ids, log_probs, first + num_steps)


@pytest.mark.parametrize("seed", range(50))
def test_every_answer_that_is_kept_is_found_as_it_was_given(seed: int) -> None:
    rng = random.Random(seed)
    given = {first: outputs(rng, first) for first in rng.sample(range(2**40), rng.randint(1, 4))}
    kept = tuple(pack_answer(first, INPUTS, answer) for first, answer in given.items())
    for first, answer in given.items():
        assert find_answer(kept, first, INPUTS, len(answer.token_ids)) == answer._replace(replayed=True)


def test_only_the_very_same_steps_are_an_answer() -> None:
    kept = (pack_answer(7, INPUTS, StepOutputs([[4, 5], [6, 7]], [[-1.0, -2.0], [-0.5, -3.0]], 9)),)
    assert find_answer(kept, 7, INPUTS, 2) is not None
    for first, num_steps in ((6, 2), (8, 1), (7, 1), (7, 3), (9, 2)):
        assert find_answer(kept, first, INPUTS, num_steps) is None
    assert find_answer((), 7, INPUTS, 2) is None
    for others in ({**INPUTS, "tokens": [4, 6]}, {**INPUTS, "characters": [[1], [2, 3]]}, {"tokens": [4, 5]}):
        assert find_answer(kept, 7, others, 2) is None


def test_the_log_probabilities_of_a_graph_come_back_to_the_bit() -> None:
    given = np.random.default_rng(0).normal(size=(1, 3)).astype(np.float32).tolist()
    found = find_answer((pack_answer(0, INPUTS, StepOutputs([[1, 2, 3]], given, 1)),), 0, INPUTS, 1)
    assert found is not None and found.log_probs == given
