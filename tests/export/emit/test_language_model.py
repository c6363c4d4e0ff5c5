"""Sequence and step graphs of the language model against torch."""

import numpy as np
import pytest
import torch

from export.emit.emit import emit
from models.config import Cell, LanguageModelConfig
from models.language_model import LanguageModel
from models.output import next_log_probs
from tests.export.emit.models import tiny
from tests.export.emit.pools import make_pools
from tests.export.emit.runtime import run, session

LIMIT = 1e-5
CASES = [("lstm", 1, False), ("lstm", 2, True), ("gru", 3, False), ("gru", 1, True)]


def _model(cell: Cell, layers: int, tied: bool) -> LanguageModel:
    model = tiny(LanguageModelConfig(cell=cell, dim=8, hidden=8, layers=layers, tied=tied))
    assert isinstance(model, LanguageModel)
    return model


@pytest.mark.parametrize(("cell", "layers", "tied"), CASES)
def test_scores_of_texts_match_torch(cell: Cell, layers: int, tied: bool) -> None:
    model = _model(cell, layers, tied)
    emitted = emit(model, "fp32")
    tokens, targets = torch.randint(0, 40, (3, 9)), torch.randint(0, 40, (3, 9))
    lengths = torch.tensor([9, 1, 5])
    states = tuple(torch.randn(3, 8) for _ in emitted.states)
    inputs = {"tokens": tokens.numpy(), "targets": targets.numpy(), "lengths": lengths.numpy()}
    initial = {str(spec.sequence_input): s.numpy() for spec, s in zip(emitted.states, states, strict=True)}
    got = run(session(emitted.graphs["sequence"]), inputs | initial)
    logits, final = model(tokens, lengths, states)
    expected = next_log_probs(logits).gather(2, targets[:, :, None]).squeeze(2).numpy()
    for row, length in enumerate(lengths.tolist()):
        np.testing.assert_allclose(got["target_log_probs"][row, :length], expected[row, :length], atol=LIMIT, rtol=0)
    for spec, state in zip(emitted.states, final, strict=True):
        np.testing.assert_allclose(got[str(spec.sequence_output)], state.numpy(), atol=LIMIT, rtol=0)


@pytest.mark.parametrize(("cell", "layers", "tied"), CASES)
def test_five_steps_in_the_pool_match_torch(cell: Cell, layers: int, tied: bool) -> None:
    model = _model(cell, layers, tied)
    emitted = emit(model, "fp32", top_k=6)
    step, pools = session(emitted.graphs["step"]), make_pools(emitted, num_slots=9)
    rng = np.random.default_rng(1)
    states, slots = model.initial_states(4), np.zeros(4, np.int64)  # slot 0 holds the initial state
    for _ in range(5):
        tokens, moved = rng.integers(0, 40, 4), rng.permutation(np.arange(2, 9))[:4]
        expected, states = model.step(torch.from_numpy(tokens), states)
        got = pools.run(step, {"tokens": tokens, "read_slots": slots, "write_slots": moved})
        slots = moved
        np.testing.assert_allclose(got["log_probs"], expected.numpy(), atol=LIMIT, rtol=0)
        order = np.argsort(-got["log_probs"], axis=1, kind="stable")[:, :6]
        assert (got["top_tokens"] == order).all()
        assert (got["top_log_probs"] == np.take_along_axis(got["log_probs"], order, 1)).all()
        for spec, state in zip(emitted.states, states, strict=True):
            np.testing.assert_allclose(pools.numpy(str(spec.pool_input))[slots], state.numpy(), atol=LIMIT, rtol=0)
