"""The proof of bit-identity must pass on the real service, and see a single bit that is wrong."""

import math
from pathlib import Path

import numpy as np
import pytest

from bench import identity
from bench.alone import Alone
from bench.ceiling import Ceiling
from bench.walks import Path as Way
from bench.wire import Fault
from export.manifest import Precision

TOKENS = [5, 17, 5, 29, 4]
SMALL = identity.Size(sessions=100, steps=16, vocabulary=60, embedding=8, hidden=16)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_session_of_a_small_crowd_equals_its_run_alone(precision: Precision, tmp_path: Path) -> None:
    outcome = identity.prove(precision, SMALL, 3, tmp_path, runners=2)
    assert outcome.paths > SMALL.sessions
    assert outcome.outputs_compared > outcome.steps_compared > 20 * SMALL.sessions // 4
    assert outcome.host_state_bytes > 0  # there were not slots enough
    for what in ("sessions forked", "streams cancelled", "commands sent again", "sessions ended with their stream"):
        assert outcome.counts[what] > 0, outcome.counts


def test_a_session_alone_takes_the_steps_of_the_graph_in_place(bundle: Path) -> None:
    alone = Alone(bundle).run(TOKENS)
    in_place = Ceiling.open(bundle, threads=1, slots=3).answers_to(TOKENS)
    assert [ids[0] for ids, _ in alone] == in_place
    assert len({log_probs for _, log_probs in alone}) == len(TOKENS)


def test_what_was_answered_is_compared_and_what_was_not_is_not(bundle: Path) -> None:
    alone = Alone(bundle)
    answers = alone.run(TOKENS)
    assert identity.compare(alone, Way("s", TOKENS, dict(enumerate(answers)))) == len(TOKENS)
    assert identity.compare(alone, Way("s", TOKENS, {1: answers[1], 3: ((), ())})) == 1


@pytest.mark.parametrize("step", [0, 4])
def test_a_last_bit_or_an_id_that_differs_is_a_fault(bundle: Path, step: int) -> None:
    alone = Alone(bundle)
    ids, log_probs = alone.run(TOKENS)[step]
    nearest = float(np.nextafter(np.float32(log_probs[0]), np.float32(-math.inf)))
    for wrong in ((ids, (nearest,)), ((ids[0] + 1,), log_probs)):
        with pytest.raises(Fault, match=rf"session s, step {step}: alone .* in company"):
            identity.compare(alone, Way("s", TOKENS, {step: wrong}))


def test_an_input_that_was_lost_is_a_fault(bundle: Path) -> None:
    alone = Alone(bundle)
    answers = dict(enumerate(alone.run([*TOKENS[:2], *TOKENS[3:]])))
    with pytest.raises(Fault, match="step 2"):
        identity.compare(alone, Way("s", TOKENS, answers))
