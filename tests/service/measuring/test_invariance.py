"""The proof of batch invariance: what we export passes it, what shares a scale over the batch does not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.emit.emit import emit
from export.emit.emitted import EmittedModel
from export.manifest import GraphKind, Manifest, Precision, TokenizerSpec
from models.config import EncoderDecoderConfig, LanguageModelConfig, ModelConfig, TaggerConfig
from service.measuring.invariance import batch_sizes, probe_invariance
from service.runtime.opening import open_runner
from service.runtime.runner import Runner, RunnerConfig
from tests.export.emit.models import tiny
from tests.service import tiny_models

MODELS: dict[str, ModelConfig] = {
    "language_model": LanguageModelConfig(cell="lstm", dim=9, hidden=17, layers=2),
    "gru_language_model": LanguageModelConfig(cell="gru", dim=9, hidden=16),
    "encoder_decoder": EncoderDecoderConfig(source_dim=7, target_dim=6, hidden=10, attention_dim=5),
    "tagger": TaggerConfig(word_dim=7, character_dim=5, character_hidden=4, hidden=6),
    "streaming_tagger": TaggerConfig(
        word_dim=7, character_dim=5, character_hidden=4, hidden=6, bidirectional=False, crf=False
    ),
}
NUM_IDS = {"tokens": 33, "targets": 33, "source": 25, "words": 30, "characters": 20}  # of tests.export.emit.models
SIZES = batch_sizes(32)


def open_emitted(folder: Path, emitted: EmittedModel, num_slots: int = 64, num_memory_rows: int = 512) -> Runner:
    for kind, graph in emitted.graphs.items():
        onnx.save(graph, folder / emitted.specs[kind].file)
    manifest = Manifest(
        name="tiny",
        version=1,
        task="language_model",
        precision="fp32",
        graphs=emitted.specs,
        states=emitted.states,
        memories=emitted.memories,
        tokenizers={"tokens": TokenizerSpec(kind="none", vocabulary="tokens.json")},
        created="2026-01-01T00:00:00Z",
        files={},
    )
    return open_runner(folder, manifest, RunnerConfig("cpu", 1, num_slots, num_memory_rows))


class Tampered:
    """A runner of which one output, or what it leaves in the pools, depends on the batch.

    Args:
        kind: Which graph is wrong, and only among several rows.
        output: The output that is off by a bit; a state where it starts with `state:`, a memory with `memory:`.
    """

    def __init__(self, runner: Runner, kind: GraphKind, output: str) -> None:
        self.manifest, self.num_slots, self.num_memory_rows = runner.manifest, runner.num_slots, runner.num_memory_rows
        self.read_rows, self.write_rows = runner.read_rows, runner.write_rows
        self.read_memory, self.write_memory = runner.read_memory, runner.write_memory
        self._runner, self._kind, self._output = runner, kind, output

    def run(
        self, kind: GraphKind, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], lane: int = 0
    ) -> dict[str, npt.NDArray[Any]]:
        got = self._runner.run(kind, inputs, outputs, lane)
        if kind != self._kind or len(next(iter(got.values()), inputs.get("source", np.zeros(1)))) == 1:
            return got
        where, _, name = self._output.rpartition(":")
        if where == "state":
            slots = inputs["write_slots"].tolist()
            self.write_rows(slots, {name: np.nextafter(self.read_rows(slots)[name], np.float32(9))})
        elif where == "memory":
            rows = inputs["source_rows"].ravel().tolist()
            self.write_memory(rows, {name: np.nextafter(self.read_memory(rows)[name], np.float32(9))})
        else:
            got[name] = np.nextafter(got[name], np.float32(9)) if got[name].dtype == np.float32 else got[name] + 1
        return got


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", MODELS)
def test_what_we_export_answers_the_same_in_any_batch(tmp_path: Path, name: str, precision: Precision) -> None:
    runner = open_emitted(tmp_path, emit(tiny(MODELS[name]), precision))
    assert probe_invariance(runner, SIZES, NUM_IDS, budget_s=0) == ()


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("language_model", "state:hidden_0"),
        ("gru_language_model", "log_probs"),  # stock quantisation leaves GRUs alone
        ("encoder_decoder", "state:hidden_0"),
    ],
)
def test_stock_dynamic_quantisation_is_caught(tmp_path: Path, name: str, shared: str) -> None:
    emitted = emit(tiny(MODELS[name]), "fp32")
    open_emitted(tmp_path, emitted)  # writes the files
    path = tmp_path / emitted.specs["step"].file
    quantize_dynamic(path, tmp_path / "quantised.onnx", weight_type=QuantType.QInt8)
    emitted.graphs["step"].CopyFrom(onnx.load(tmp_path / "quantised.onnx"))
    lines = [str(found) for found in probe_invariance(open_emitted(tmp_path, emitted), SIZES, NUM_IDS, budget_s=0)]
    assert any(line.startswith(f"step: {shared} differs") for line in lines), lines
    assert not any(line.startswith(("sequence", "encode")) for line in lines)


@pytest.mark.parametrize(
    ("name", "kind", "output"),
    [
        ("language_model", "step", "top_tokens"),
        ("language_model", "step", "log_probs"),
        ("language_model", "step", "state:cell_1"),
        ("language_model", "sequence", "target_log_probs"),
        ("tagger", "sequence", "emissions"),
        ("encoder_decoder", "encode", "state:hidden_0"),
        ("encoder_decoder", "encode", "memory:keys"),
        ("encoder_decoder", "step", "top_log_probs"),
        ("language_model", "chunk", "top_log_probs"),
        ("language_model", "chunk", "state:hidden_1"),
    ],
)
def test_one_bit_of_any_output_is_seen(tmp_path: Path, name: str, kind: GraphKind, output: str) -> None:
    runner = open_emitted(tmp_path, emit(tiny(MODELS[name]), "fp32"))
    [found] = probe_invariance(Tampered(runner, kind, output), SIZES, NUM_IDS, budget_s=0)
    what = "chunk against steps" if kind == "chunk" else kind
    assert str(found).startswith(f"{what}: {output} differs in batches of 2, 3, ")
    assert found.is_far == (output == "top_tokens")  # whole numbers do not round


@pytest.mark.parametrize("name", MODELS)
def test_the_pools_are_left_zero(tmp_path: Path, name: str) -> None:
    runner = open_emitted(tmp_path, emit(tiny(MODELS[name]), "fp32"))
    probe_invariance(runner, SIZES, NUM_IDS, budget_s=0)
    pools = [s.pool_input for s in runner.manifest.states] + [m.pool_input for m in runner.manifest.memories]
    assert not any(runner.read_pool(pool).any() for pool in pools if pool is not None)


@pytest.mark.parametrize("name", ["language_model", "encoder_decoder"])
def test_pools_smaller_than_the_batches_will_do(tmp_path: Path, name: str) -> None:
    runner = open_emitted(tmp_path, emit(tiny(MODELS[name]), "fp32"), num_slots=6, num_memory_rows=20)
    assert probe_invariance(runner, SIZES, NUM_IDS, budget_s=0) == ()
    assert probe_invariance(Tampered(runner, "step", "top_log_probs"), SIZES, NUM_IDS, budget_s=0)
    assert not any(runner.read_pool(str(state.pool_input)).any() for state in runner.manifest.states)


def test_more_rows_are_tried_while_there_is_time(tmp_path: Path) -> None:
    runner = open_emitted(tmp_path, emit(tiny(MODELS["gru_language_model"]), "fp32"))
    counts: list[int] = []
    run = runner.run

    def counted(*args: Any, **named: Any) -> Any:
        counts[-1] += 1
        return run(*args, **named)

    runner.run = counted  # type: ignore[method-assign]
    for budget_s in (0.0, 0.5):
        counts.append(0)
        probe_invariance(runner, (1, 2), NUM_IDS, budget_s=budget_s)
    assert counts[1] > counts[0]


@pytest.mark.parametrize("write", [tiny_models.write_language_model, tiny_models.write_encoder_decoder])
def test_ids_that_are_not_told_are_those_that_every_vocabulary_has(tmp_path: Path, write: Any) -> None:
    manifest = write(tmp_path, tiny_models.make_table())
    runner = open_runner(tmp_path, manifest, RunnerConfig("cpu", 1, 16, 64))
    assert probe_invariance(runner, (1, 2, 5), budget_s=0) == ()


@pytest.mark.parametrize(
    ("max_rows", "sizes"), [(1, (1,)), (6, (1, 2, 3, 4, 5, 6)), (20, (1, 2, 3, 4, 5, 8, 13, 16, 20))]
)
def test_sizes_are_small_ones_powers_of_two_and_odd_ones(max_rows: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(max_rows) == sizes
