"""Encode and step graphs of the encoder-decoder against torch, pools bound in place."""

import numpy as np
import pytest
import torch

from export.emit.emit import emit
from models.config import Cell, EncoderDecoderConfig
from models.encoder_decoder import EncoderDecoder
from tests.export.emit.models import tiny
from tests.export.emit.pools import make_pools, memory_rows
from tests.export.emit.runtime import session

LIMIT = 1e-5
VOCABULARY = 33


def _config(cell: Cell, **changes: object) -> EncoderDecoderConfig:
    settings = {"source_dim": 6, "target_dim": 5, "hidden": 8, "attention_dim": 7, **changes}
    return EncoderDecoderConfig.model_validate({"cell": cell, **settings})


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
@pytest.mark.parametrize(
    ("encoder_layers", "decoder_layers", "bidirectional"), [(1, 1, True), (2, 3, True), (3, 2, False)]
)
def test_encoding_and_five_steps_match_torch(
    cell: Cell, attention: str, encoder_layers: int, decoder_layers: int, bidirectional: bool
) -> None:
    config = _config(
        cell,
        attention=attention,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        bidirectional=bidirectional,
    )
    model = tiny(config)
    assert isinstance(model, EncoderDecoder)
    emitted = emit(model, "fp32", top_k=VOCABULARY)
    encode, step = session(emitted.graphs["encode"]), session(emitted.graphs["step"])
    rng = np.random.default_rng(0)
    lengths = np.array([7, 1, 4, 2])
    source = rng.integers(4, 25, (4, 7))
    written, read = memory_rows(lengths, 7, rng)
    slots = np.array([5, 2, 8, 3])
    pools = make_pools(emitted, num_slots=10, num_rows=20)
    pools.run(encode, {"source": source, "lengths": lengths, "source_rows": written, "write_slots": slots})
    memory, keys, states = model.encode(torch.from_numpy(source), torch.from_numpy(lengths))
    for row, length in enumerate(lengths):
        kept = pools.numpy("memory_pool")[written[row, :length]]
        np.testing.assert_allclose(kept, memory[row, :length].numpy(), atol=LIMIT, rtol=0)
    for spec, state in zip(emitted.states, states, strict=True):
        np.testing.assert_allclose(pools.numpy(str(spec.pool_input))[slots], state.numpy(), atol=LIMIT, rtol=0)
    for _ in range(5):
        tokens, moved = rng.integers(3, VOCABULARY, 4), rng.permutation(np.arange(2, 10))[:4]
        expected, states = model.step(torch.from_numpy(tokens), states, memory, keys, torch.from_numpy(lengths))
        got = pools.run(
            step,
            {
                "tokens": tokens,
                "read_slots": slots,
                "write_slots": moved,
                "source_rows": read,
                "source_lengths": lengths,
            },
        )
        slots = moved
        np.testing.assert_allclose(
            got["top_log_probs"], np.take_along_axis(expected.numpy(), got["top_tokens"], 1), atol=LIMIT, rtol=0
        )
        assert (np.diff(got["top_log_probs"], axis=1) <= 0).all()
        assert (np.sort(got["top_tokens"], axis=1) == np.arange(VOCABULARY)).all()
        for spec, state in zip(emitted.states, states, strict=True):
            np.testing.assert_allclose(pools.numpy(str(spec.pool_input))[slots], state.numpy(), atol=LIMIT, rtol=0)


def test_pools_are_updated_in_place_and_only_where_told() -> None:
    model = tiny(_config("lstm"))
    emitted = emit(model, "fp32", top_k=4)
    pools = make_pools(emitted, num_slots=6, num_rows=9)
    for value in pools.values.values():
        value.numpy()[2:] = 7.0
    lengths = np.array([3, 1])
    written, read = memory_rows(lengths, 3)
    encode = {"source": np.full((2, 3), 4), "lengths": lengths, "source_rows": written, "write_slots": np.array([4, 2])}
    pools.run(session(emitted.graphs["encode"]), encode)
    for name in pools.values:
        changed = (pools.numpy(name)[2:] != 7.0).all(axis=1)
        kept = (pools.numpy(name)[2:] == 7.0).all(axis=1)
        expected = [True] * 4 + [False] * 3 if name in ("memory_pool", "keys_pool") else [True, False, True, False]
        assert (changed.tolist(), kept.tolist()) == (expected, [not e for e in expected])
        assert (pools.numpy(name)[0] == 0).all()
    before = {name: pools.numpy(name).copy() for name in pools.values}
    step = {
        "tokens": np.array([4, 5]),
        "read_slots": np.array([4, 2]),
        "write_slots": np.array([3, 2]),
        "source_rows": read,
        "source_lengths": lengths,
    }
    pools.run(session(emitted.graphs["step"]), step)
    for name, old in before.items():
        rows = [] if name in ("memory_pool", "keys_pool") else [2, 3]
        assert np.flatnonzero((pools.numpy(name) != old).any(axis=1)).tolist() == rows


def test_what_can_never_come_next_comes_last() -> None:
    emitted = emit(tiny(_config("gru")), "fp32", top_k=VOCABULARY)
    pools = make_pools(emitted, num_slots=4, num_rows=4)
    step = {
        "tokens": np.array([2]),
        "read_slots": np.array([0]),
        "write_slots": np.array([2]),
        "source_rows": np.array([[0]]),
        "source_lengths": np.array([1]),
    }
    got = pools.run(session(emitted.graphs["step"]), step)
    assert got["top_tokens"][0, -2:].tolist() == [0, 2]  # equal: the lower id first
    assert got["top_log_probs"][0, -2:].tolist() == [-1e9, -1e9]


def test_the_specs_are_the_contract() -> None:
    emitted = emit(tiny(_config("lstm", decoder_layers=2)), "fp32", top_k=50)
    assert [state.name for state in emitted.states] == ["hidden_0", "cell_0", "hidden_1", "cell_1"]
    assert [(memory.name, memory.shape) for memory in emitted.memories] == [("memory", (16,)), ("keys", (7,))]
    step = emitted.specs["step"]
    assert step.file == "step.onnx"
    assert [t.name for t in step.inputs[:5]] == ["tokens", "read_slots", "write_slots", "source_rows", "source_lengths"]
    outputs = {t.name: t.shape for t in step.outputs}
    assert outputs["top_tokens"] == ("B", VOCABULARY)  # k is at most the vocabulary
    assert set(outputs) == {"top_log_probs", "top_tokens"} | {f"{s.name}_pool_out" for s in emitted.states}
    encode = emitted.specs["encode"]
    assert [t.name for t in encode.inputs[:4]] == ["source", "lengths", "source_rows", "write_slots"]
    for kind, spec in emitted.specs.items():
        graph = emitted.graphs[kind].graph
        assert [t.name for t in spec.inputs] == [v.name for v in graph.input]
        assert [t.name for t in spec.outputs] == [v.name for v in graph.output]
