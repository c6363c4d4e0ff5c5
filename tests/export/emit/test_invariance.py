"""Alone or in any company, the same answer, bit for bit."""

import numpy as np
import onnxruntime as ort
import pytest

from export.emit.emit import emit
from export.emit.emitted import EmittedModel
from export.manifest import Precision
from models.config import Cell, EncoderDecoderConfig, LanguageModelConfig, TaggerConfig
from tests.export.emit.models import tiny
from tests.export.emit.pools import make_pools, memory_rows
from tests.export.emit.runtime import Array, run, session

WIDTHS = [(5, 3), (24, 16), (64, 33)]  # hidden, attention
PRECISIONS: list[Precision] = ["fp32", "int8"]


def _transduce(
    emitted: EmittedModel,
    graphs: tuple[ort.InferenceSession, ort.InferenceSession],
    source: Array,
    lengths: Array,
    tokens: Array,
) -> list[Array]:
    """Encode, take a step for each column of tokens (B, T); all outputs and final states, (B, ...) each."""
    encode, step = graphs
    slots = np.arange(2, 2 + len(source))
    pools = make_pools(emitted, num_slots=2 + len(source), num_rows=2 + int(lengths.sum()))
    written, read = memory_rows(lengths, source.shape[1])
    pools.run(encode, {"source": source, "lengths": lengths, "source_rows": written, "write_slots": slots})
    results = []
    for column in tokens.T:
        inputs = {"tokens": column, "read_slots": slots, "write_slots": slots}
        got = pools.run(step, inputs | {"source_rows": read, "source_lengths": lengths})
        results += [got["top_log_probs"], got["top_tokens"]]
    return results + [pools.numpy(str(state.pool_input))[slots] for state in emitted.states]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
@pytest.mark.parametrize(("hidden", "attention_dim"), WIDTHS)
def test_transduction_is_the_same_among_longer_sources(
    cell: Cell, precision: Precision, attention: str, hidden: int, attention_dim: int
) -> None:
    config = EncoderDecoderConfig.model_validate(
        {"cell": cell, "attention": attention, "hidden": hidden, "attention_dim": attention_dim, "source_dim": 7}
    )
    emitted = emit(tiny(config), precision, top_k=20)
    graphs = session(emitted.graphs["encode"]), session(emitted.graphs["step"])
    rng = np.random.default_rng(hidden)
    for batch_size in range(2, 17):
        lengths = rng.integers(1, 30, batch_size)
        source = rng.integers(4, 25, (batch_size, int(lengths.max() + rng.integers(0, 9))))
        source[np.arange(source.shape[1]) >= lengths[:, None]] = 0
        tokens = rng.integers(3, 33, (batch_size, 4))
        together = _transduce(emitted, graphs, source, lengths, tokens)
        for row in rng.permutation(batch_size)[:4]:
            one = slice(row, row + 1)
            alone = _transduce(emitted, graphs, source[one, : lengths[row]], lengths[one], tokens[one])
            for batched, single in zip(together, alone, strict=True):
                assert np.array_equal(batched[one], single)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_language_model_is_the_same_in_any_batch(cell: Cell, precision: Precision) -> None:
    emitted = emit(tiny(LanguageModelConfig(cell=cell, dim=17, hidden=33)), precision)
    sequence, step = session(emitted.graphs["sequence"]), session(emitted.graphs["step"])
    rng = np.random.default_rng(0)
    for batch_size in range(2, 17):
        lengths = rng.integers(1, 20, batch_size)
        width = int(lengths.max()) + 3
        tokens, targets = rng.integers(0, 40, (2, batch_size, width))
        initial = {
            str(state.sequence_input): rng.standard_normal((batch_size, 33), np.float32) for state in emitted.states
        }
        together = run(sequence, {"tokens": tokens, "targets": targets, "lengths": lengths} | initial)
        pools = make_pools(emitted, num_slots=2 + batch_size)
        slots = np.arange(2, 2 + batch_size)
        stepped = pools.run(step, {"tokens": tokens[:, 0], "read_slots": slots * 0, "write_slots": slots})
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            texts = {"tokens": tokens[one, :length], "targets": targets[one, :length], "lengths": lengths[one]}
            alone = run(sequence, texts | {name: state[one] for name, state in initial.items()})
            for name, value in alone.items():
                assert np.array_equal(together[name][one, : value.shape[1]], value)
            single = pools.run(
                step,
                {"tokens": tokens[one, 0], "read_slots": np.zeros(1, np.int64), "write_slots": np.ones(1, np.int64)},
            )
            assert all(np.array_equal(stepped[name][one], value) for name, value in single.items())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_tags_are_the_same_in_any_batch(cell: Cell, precision: Precision) -> None:
    emitted = emit(
        tiny(TaggerConfig(cell=cell, word_dim=9, character_dim=5, character_hidden=6, hidden=17, layers=2)), precision
    )
    sequence = session(emitted.graphs["sequence"])
    rng = np.random.default_rng(0)
    for batch_size in range(2, 17):
        lengths = rng.integers(1, 12, batch_size)
        width = int(lengths.max()) + 2
        word_lengths = rng.integers(1, 7, (batch_size, width))
        inputs = {
            "words": rng.integers(0, 30, (batch_size, width)),
            "characters": rng.integers(0, 20, (batch_size, width, int(word_lengths.max()) + 2)),
            "word_lengths": word_lengths,
        }
        states = [str(state.sequence_input) for state in emitted.states]
        together = run(
            sequence, inputs | {"lengths": lengths} | {name: np.zeros((batch_size, 17), np.float32) for name in states}
        )
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            longest = int(word_lengths[row, :length].max())
            sentence = {name: value[one, :length] for name, value in inputs.items()}
            sentence["characters"] = sentence["characters"][:, :, :longest]
            zeros = {name: np.zeros((1, 17), np.float32) for name in states}
            alone = run(sequence, sentence | {"lengths": lengths[one]} | zeros)
            assert np.array_equal(together["emissions"][one, :length], alone["emissions"])
            for state in emitted.states:
                name = str(state.sequence_output)
                assert np.array_equal(together[name][one], alone[name])
