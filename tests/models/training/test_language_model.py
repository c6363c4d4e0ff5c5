"""Truncated backpropagation: the state is carried from chunk to chunk, the gradient is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.data.tracks import Tracks
from models.language_model import LanguageModel
from models.training.batches import ChunkBatch
from models.training.chunks import ChunkTraining
from models.training.config import load_config
from models.training.families import LanguageModelModule
from models.training.language_scorer import LanguageScorer
from models.training.progress import Progress

PAD, BOS, EOS, SIZE = 0, 2, 3, 11


def tracks(chunk: int) -> Tracks:
    stream = np.random.default_rng(1).integers(EOS, SIZE, 34).astype(np.int32)
    return Tracks.of(stream, 3, chunk, PAD, BOS, EOS)  # 3 tracks of 12 steps, the last two of them padding


@pytest.fixture
def module(write_config: Callable[..., Path]) -> LanguageModelModule:
    config = load_config(write_config("language_model", model={"dropout": 0.0}))
    torch.manual_seed(1)
    model = LanguageModel(config.model, SIZE)  # type: ignore[arg-type]
    return LanguageModelModule(model, config, LanguageScorer(model, False), Progress(), ChunkTraining(tracks(5)))


def whole_loss(model: LanguageModel) -> torch.Tensor:
    chunk = tracks(99)[0]
    logits, _ = model(torch.from_numpy(chunk.inputs))
    targets = torch.from_numpy(chunk.targets).flatten()
    return functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=PAD, reduction="sum")


@pytest.mark.parametrize("many", [1, 10**9])
def test_chunks_add_up_to_the_whole_text(
    many: int, module: LanguageModelModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.training.families.MANY_LOGITS", many)
    assert isinstance(module.model, LanguageModel)
    expected = whole_loss(module.model)
    for _ in range(2):  # the second time from the beginning again
        nats = torch.zeros(())
        for i in range(module.data.num_batches(0)):
            batch = module.data.batch(0, i)
            nats = nats + module.loss(batch) * (batch[1] != PAD).sum()
        torch.testing.assert_close(nats, expected)


def test_the_gradient_stops_at_the_start_of_a_chunk(module: LanguageModelModule) -> None:
    module.loss(module.data.batch(0, 0))
    assert all(not state.requires_grad for state in module.carried().values())
    carried = module.carried()
    before = {name: value.clone() for name, value in carried.items()}
    assert isinstance(module.model, LanguageModel)
    second = module.data.batch(0, 1)
    states = tuple(carried[str(i)] for i in range(len(carried)))
    logits, _ = module.model(second[0], None, states)
    expected = functional.cross_entropy(logits.flatten(0, 1), second[1].flatten(), ignore_index=PAD)
    expected.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.clone() for p in module.model.parameters() if p.grad is not None]
    module.zero_grad()
    module.loss(second).backward()  # type: ignore[no-untyped-call]
    for parameter, gradient in zip(module.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert all(torch.equal(carried[name], value) for name, value in before.items())


def test_evaluation_by_chunks_is_that_of_the_whole(module: LanguageModelModule) -> None:
    assert isinstance(module.model, LanguageModel)
    scorer = LanguageScorer(module.model.eval(), characters=False)
    for i in range(module.data.num_batches(0)):
        scorer.add(module.data.batch(0, i))
    assert scorer.metrics()["loss"] == pytest.approx(float(whole_loss(module.model).detach()) / 34, rel=1e-5)


@pytest.mark.parametrize("many", [1, 10**9])
def test_nothing_but_padding_costs_nothing(
    many: int, module: LanguageModelModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.training.families.MANY_LOGITS", many)
    batch = module.data.batch(0, 0)
    assert isinstance(batch, ChunkBatch)
    assert float(module.loss(batch._replace(targets=torch.zeros_like(batch.targets))).detach()) == 0
