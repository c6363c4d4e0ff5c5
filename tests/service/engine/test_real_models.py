"""Emitted models of random weights in the engine, against PyTorch and the searches that training uses."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.emit.emit import emit
from export.manifest import Manifest, Task, TokenizerSpec
from models.build import build_model
from models.config import EncoderDecoderConfig, LanguageModelConfig
from models.encoder_decoder import EncoderDecoder
from models.language_model import LanguageModel
from models.search import beam_search
from service.engine.interface import Decode, Finished, Generate, Sampling, StepOutputs, TokensDecided
from service.runtime.runner import Runner
from tests.service.engine.harness import NO_SESSIONS, Harness, open_tiny, running

pytestmark = pytest.mark.slow
VOCABULARY = 30


def open_emitted(folder: Path, model: torch.nn.Module, task: Task, num_slots: int = 300) -> Runner:
    emitted = emit(model, "fp32", top_k=16)
    for kind, graph in emitted.graphs.items():
        onnx.save(graph, folder / emitted.specs[kind].file)
    manifest = Manifest(
        name="random",
        version=1,
        task=task,
        precision="fp32",
        graphs=emitted.specs,
        states=emitted.states,
        memories=emitted.memories,
        tokenizers={"tokens": TokenizerSpec(kind="none", vocabulary="tokens.json")},
        created="2025-01-01T00:00:00Z",
        files={},
    )
    return open_tiny(folder, manifest, num_slots, num_memory_rows=4096)


def make_encoder_decoder(cell: str) -> EncoderDecoder:
    torch.manual_seed(0)
    config = EncoderDecoderConfig.model_validate(
        {"cell": cell, "source_dim": 8, "target_dim": 8, "hidden": 16, "attention_dim": 8, "decoder_layers": 2}
    )
    model = build_model(config, {"source": VOCABULARY, "target": VOCABULARY}).eval()
    assert isinstance(model, EncoderDecoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # far from uniform, so that answers differ and end
    return model


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_decodes_in_company_are_what_pytorch_finds_alone(tmp_path: Path, cell: str) -> None:
    model = make_encoder_decoder(cell)
    rng = random.Random(0)
    with running(open_emitted(tmp_path, model, "encoder_decoder"), NO_SESSIONS) as engine:
        requests = []
        for _ in range(64):
            source = tuple(rng.randrange(4, VOCABULARY) for _ in range(rng.randint(1, 25)))
            beam_size = rng.randint(1, 5)
            requests.append(Decode(engine.new_id(), source, beam_size, 1, 0.6, 30))
            engine.submit(requests[-1])
        for request in requests:
            [got] = engine.hypotheses(request.id)
            batch, lengths = torch.tensor([request.source]), torch.tensor([len(request.source)])
            [[expected]] = beam_search(model, batch, lengths, request.beam_size, 30, alpha=0.6)
            assert (got.tokens, got.finish_reason) == (expected.tokens, expected.finish_reason)
            assert got.score == pytest.approx(expected.score, abs=1e-3)
            assert engine.decided(request.id) == list(got.tokens)


def everything_said(engine: Harness, request: int) -> tuple[tuple[float, ...], list[object]]:
    events = engine.events[request]
    log_probs = tuple(x for event in events if isinstance(event, TokensDecided) for x in event.log_probs)
    return log_probs, [event.value for event in events if isinstance(event, Finished)]


def test_alone_or_in_company_the_same_answer_bit_for_bit(tmp_path: Path) -> None:
    runner = open_emitted(tmp_path, make_encoder_decoder("lstm"), "encoder_decoder")
    rng = random.Random(1)
    with running(runner, NO_SESSIONS) as engine:

        def submit(source: tuple[int, ...], beam_size: int) -> int:
            return engine.submit(Decode(engine.new_id(), source, beam_size, beam_size, 0.6, 30))

        jobs = [
            (tuple(rng.randrange(4, VOCABULARY) for _ in range(rng.randint(1, 25))), rng.randint(1, 5))
            for _ in range(48)
        ]
        alone = []
        for job in jobs:
            request = submit(*job)
            engine.wait(request)
            alone.append(everything_said(engine, request))
        together = [submit(*job) for job in jobs]
        for request in together:
            engine.wait(request)
        assert [everything_said(engine, request) for request in together] == alone


def test_a_language_model_steps_and_generates_as_pytorch_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LanguageModelConfig(dim=8, hidden=16, layers=2)
    model = build_model(config, {"tokens": VOCABULARY}).eval()
    assert isinstance(model, LanguageModel)
    rng = np.random.default_rng(0)
    texts = rng.integers(4, VOCABULARY, size=(20, 12))
    with running(open_emitted(tmp_path, model, "language_model")) as engine:
        for session in range(len(texts)):
            engine.open(session)
        got: list[list[StepOutputs]] = [[] for _ in texts]
        for start, end in ((0, 1), (1, 5), (5, 12)):
            requests = [engine.step(session, text[start:end].tolist(), 5) for session, text in enumerate(texts)]
            for session, request in enumerate(requests):
                outputs = engine.value(request)
                assert isinstance(outputs, StepOutputs)
                got[session].append(outputs)
        with torch.inference_mode():
            logits, _ = model(torch.from_numpy(texts))
            log_probs = torch.log_softmax(logits, dim=-1)
            log_probs[..., [0, 2]] = -1e9
        expected = log_probs.topk(5)
        for session in range(len(texts)):
            ids = np.concatenate([outputs.token_ids for outputs in got[session]])
            values = np.concatenate([outputs.log_probs for outputs in got[session]])
            np.testing.assert_array_equal(ids, expected.indices[session].numpy())
            np.testing.assert_allclose(values, expected.values[session].numpy(), atol=1e-5)
            assert engine.close(session) == 12
        request = engine.submit(Generate(engine.new_id(), (2, 7, 9), Sampling(0.0, 0, 1.0, 0), 20))
        engine.wait(request)
        text = [2, 7, 9]
        with torch.inference_mode():
            while len(text) < 23:
                logits = model(torch.tensor([text]))[0][0, -1]
                logits[[0, 2]] = -torch.inf
                token = int(logits.argmax())
                if token == 3:
                    break
                text.append(token)
        assert engine.decided(request) == text[3:]
