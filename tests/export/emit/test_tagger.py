"""Sequence and step graphs of the tagger against torch."""

import numpy as np
import pytest
import torch

from export.emit.emit import emit
from models.config import Cell, TaggerConfig
from models.tagger import Tagger
from tests.export.emit.models import tiny
from tests.export.emit.pools import make_pools
from tests.export.emit.runtime import run, session

LIMIT = 1e-5


def _model(cell: Cell, layers: int, bidirectional: bool, crf: bool = False) -> Tagger:
    settings = {"word_dim": 6, "character_dim": 4, "character_hidden": 3, "hidden": 7}
    config = TaggerConfig(cell=cell, layers=layers, bidirectional=bidirectional, crf=crf, **settings)
    model = tiny(config)
    assert isinstance(model, Tagger)
    return model


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, True), (3, True), (2, False)])
def test_emissions_match_torch(cell: Cell, layers: int, bidirectional: bool) -> None:
    model = _model(cell, layers, bidirectional)
    emitted = emit(model, "fp32")
    words, characters = torch.randint(0, 30, (3, 8)), torch.randint(0, 20, (3, 8, 5))
    word_lengths, lengths = torch.randint(1, 6, (3, 8)), torch.tensor([8, 1, 4])
    states = tuple(torch.randn(3, 7) for _ in emitted.states)
    names = ("words", "characters", "word_lengths", "lengths")
    inputs = {n: t.numpy() for n, t in zip(names, (words, characters, word_lengths, lengths), strict=True)}
    initial = {str(spec.sequence_input): s.numpy() for spec, s in zip(emitted.states, states, strict=True)}
    got = run(session(emitted.graphs["sequence"]), inputs | initial)
    emissions, final = model(words, characters, word_lengths, lengths, states)
    for row, length in enumerate(lengths.tolist()):
        np.testing.assert_allclose(got["emissions"][row, :length], emissions[row, :length].numpy(), atol=LIMIT, rtol=0)
    for spec, state in zip(emitted.states, final, strict=True):
        np.testing.assert_allclose(got[str(spec.sequence_output)], state.numpy(), atol=LIMIT, rtol=0)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_stepping_word_by_word_is_tagging_the_sentence(cell: Cell) -> None:
    model = _model(cell, layers=2, bidirectional=False)
    emitted = emit(model, "fp32", top_k=9)
    step, pools = session(emitted.graphs["step"]), make_pools(emitted, num_slots=6)
    words, characters = torch.randint(0, 30, (3, 5)), torch.randint(0, 20, (3, 5, 4))
    word_lengths = torch.randint(1, 5, (3, 5))
    log_probs = torch.log_softmax(model(words, characters, word_lengths)[0], dim=-1).numpy()
    read, write = np.zeros(3, np.int64), np.array([4, 2, 3])
    for t in range(5):
        inputs = {
            "words": words[:, t].numpy(),
            "characters": characters[:, t].numpy(),
            "word_lengths": word_lengths[:, t].numpy(),
        }
        got = pools.run(step, inputs | {"read_slots": read, "write_slots": write})
        assert got["top_tokens"].shape == (3, 5)  # k is at most the number of tags
        assert (got["top_tokens"] == np.argsort(-log_probs[:, t], axis=1)).all()
        np.testing.assert_allclose(got["top_log_probs"], -np.sort(-log_probs[:, t], axis=1), atol=LIMIT, rtol=0)
        read = write


@pytest.mark.parametrize(("bidirectional", "crf"), [(True, False), (False, True), (True, True)])
def test_no_step_graph_where_words_ahead_matter(bidirectional: bool, crf: bool) -> None:
    emitted = emit(_model("lstm", 1, bidirectional, crf), "fp32")
    assert set(emitted.graphs) == set(emitted.specs) == {"sequence"}
    assert all(state.pool_input is None for state in emitted.states)
