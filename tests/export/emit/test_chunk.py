"""A chunk of T steps against T runs of the step graph: the same bits, in outputs and in states."""

import numpy as np
import pytest

from export.emit.emit import emit
from export.emit.emitted import EmittedModel
from export.manifest import Precision, TensorSpec, Variant
from models.config import Cell, LanguageModelConfig, ModelConfig, TaggerConfig
from tests.export.emit.models import tiny
from tests.export.emit.pools import make_pools
from tests.export.emit.runtime import Array, session
from tests.export.emit.variants import as_variant

PRECISIONS: list[Precision] = ["fp32", "int8"]
VARIANTS: list[Variant] = ["primitive", "folded"]
# Rows and steps, most of them no multiple of a vector register or a tile of a matrix kernel.
SHAPES = [(1, 1), (1, 16), (2, 7), (3, 2), (5, 3), (16, 4), (31, 5), (64, 16)]
NUM_SLOTS = 2 + 70
IDS = 20  # fewer than any vocabulary has
MAX_CHARACTERS = 6


def _feeds(inputs: tuple[TensorSpec, ...], sizes: dict[str, int], rng: np.random.Generator) -> dict[str, Array]:
    """Random ids for every input that has time."""
    feeds = {}
    for spec in inputs:
        if "T" in spec.shape:
            shape = tuple(sizes[str(size)] for size in spec.shape)
            low, high = (1, sizes["C"] + 1) if spec.name == "word_lengths" else (0, IDS)
            feeds[spec.name] = rng.integers(low, high, shape)
    return feeds


def _assert_chunks_are_steps(emitted: EmittedModel, seed: int) -> None:
    chunk, step = session(emitted.graphs["chunk"]), session(emitted.graphs["step"])
    rng = np.random.default_rng(seed)
    together, one_by_one = make_pools(emitted, NUM_SLOTS), make_pools(emitted, NUM_SLOTS)
    for name in together.values:
        start = rng.uniform(-1, 1, together.numpy(name)[2:].shape).astype(np.float32)
        together.numpy(name)[2:] = one_by_one.numpy(name)[2:] = start
    for num_rows, num_steps in SHAPES:
        reads, writes = (rng.permutation(np.arange(2, NUM_SLOTS))[:num_rows] for _ in range(2))
        reads[0] = 0
        sizes = {"B": num_rows, "T": num_steps, "C": MAX_CHARACTERS}
        feeds = _feeds(emitted.specs["chunk"].inputs, sizes, rng)
        got = together.run(chunk, feeds | {"read_slots": reads, "write_slots": writes})
        assert got["top_tokens"].shape[:2] == (num_rows, num_steps)
        for t in range(num_steps):
            now = {name: array[:, t] for name, array in feeds.items()}
            want = one_by_one.run(step, now | {"read_slots": reads if t == 0 else writes, "write_slots": writes})
            for name in ("top_log_probs", "top_tokens"):
                assert got[name][:, t].tobytes() == want[name].tobytes(), (name, num_rows, num_steps, t)
        for name in together.values:
            assert together.numpy(name).tobytes() == one_by_one.numpy(name).tobytes(), (name, num_rows, num_steps)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("dim", "hidden", "layers"), [(5, 3, 1), (17, 33, 2), (64, 128, 2)])
def test_a_language_model_reads_a_chunk_as_its_steps(
    cell: Cell, precision: Precision, dim: int, hidden: int, layers: int
) -> None:
    config = LanguageModelConfig(cell=cell, dim=dim, hidden=hidden, layers=layers)
    _assert_chunks_are_steps(emit(tiny(config), precision, top_k=7), seed=hidden)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_tagger_reads_a_chunk_as_its_steps(cell: Cell, precision: Precision) -> None:
    config = TaggerConfig(
        cell=cell, word_dim=9, character_dim=5, character_hidden=7, hidden=19, layers=2, bidirectional=False, crf=False
    )
    _assert_chunks_are_steps(emit(tiny(config), precision, top_k=3), seed=1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("dim", "hidden", "layers"), [(5, 3, 1), (17, 33, 2), (64, 128, 2)])
def test_variants_read_a_chunk_as_their_steps(cell: Cell, variant: Variant, dim: int, hidden: int, layers: int) -> None:
    config = LanguageModelConfig(cell=cell, dim=dim, hidden=hidden, layers=layers)
    emitted = emit(tiny(config), "fp32", top_k=7, for_cuda=True)
    _assert_chunks_are_steps(as_variant(emitted, variant), seed=hidden)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_variants_of_a_tagger_too(cell: Cell, variant: Variant) -> None:
    config = TaggerConfig(
        cell=cell, word_dim=9, character_hidden=7, hidden=19, layers=2, bidirectional=False, crf=False
    )
    _assert_chunks_are_steps(as_variant(emit(tiny(config), "fp32", top_k=3, for_cuda=True), variant), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("dim", "hidden"), [(256, 512), (131, 257)])
def test_wide_layers_too(cell: Cell, precision: Precision, dim: int, hidden: int) -> None:
    config = LanguageModelConfig(cell=cell, dim=dim, hidden=hidden, layers=2)
    _assert_chunks_are_steps(emit(tiny(config, gain=1.5), precision, top_k=7), seed=hidden)


@pytest.mark.parametrize("config", [LanguageModelConfig(dim=4, hidden=4), TaggerConfig(bidirectional=False, crf=False)])
def test_a_chunk_takes_what_its_step_takes_with_time(config: ModelConfig) -> None:
    specs = emit(tiny(config), "fp32").specs
    step, chunk = ({spec.name: spec.shape for spec in specs[kind].inputs} for kind in ("step", "chunk"))
    ids = {"tokens", "words", "characters", "word_lengths"}
    assert chunk == {name: (*shape[:1], "T", *shape[1:]) if name in ids else shape for name, shape in step.items()}
    step, chunk = ({spec.name: spec.shape for spec in specs[kind].outputs} for kind in ("step", "chunk"))
    step.pop("log_probs", None)
    best = {"top_log_probs", "top_tokens"}
    assert chunk == {name: ("B", "T", *shape[1:]) if name in best else shape for name, shape in step.items()}


def test_no_chunk_graph_where_there_is_no_step_graph_or_no_promise_of_its_bits() -> None:
    halves = emit(tiny(LanguageModelConfig(dim=4, hidden=4)), "fp16", for_cuda=True)
    assert set(halves.graphs) == {"sequence", "step"} and set(halves.variants["folded"]) == {"step"}
    assert set(emit(tiny(TaggerConfig(bidirectional=True)), "fp32").graphs) == {"sequence"}
