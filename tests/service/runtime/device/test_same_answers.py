"""Whatever a device is asked, it answers what the CPU does where everything is plain, bit for bit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from export.emit.emit import emit
from export.manifest import GraphSpec, Manifest, Precision, Task, TokenizerSpec
from models.build import build_model
from models.config import EncoderDecoderConfig, LanguageModelConfig, TaggerConfig
from service.runtime.device.memory import DeviceMemory, HostMemory
from service.runtime.device.pools import DevicePools
from service.runtime.likely import likely_rows, shared_inputs
from service.runtime.probe import ProbeFailure
from service.runtime.proof import prove
from service.runtime.providers import CPU
from service.runtime.runner import Runner, RunnerConfig
from tests.service import tensor_models, tiny_models
from tests.service.runtime.device.far import Far

Array = npt.NDArray[Any]
NUM_SLOTS, NUM_MEMORY_ROWS, VOCABULARY = 90, 64, 20
CONFIG = RunnerConfig("cpu", 1, NUM_SLOTS, NUM_MEMORY_ROWS)
CONFIGS: dict[str, tuple[Task, Any, dict[str, int]]] = {
    "language model, lstm": ("language_model", LanguageModelConfig(dim=8, hidden=16, layers=2), {}),
    "language model, gru": ("language_model", LanguageModelConfig(cell="gru", dim=8, hidden=9, layers=1), {}),
    "tagger": (
        "tagger",
        TaggerConfig(
            word_dim=6, character_dim=4, character_hidden=3, hidden=7, layers=2, bidirectional=False, crf=False
        ),
        {},
    ),
    "encoder-decoder": (
        "encoder_decoder",
        EncoderDecoderConfig(source_dim=6, target_dim=5, hidden=8, attention_dim=7, decoder_layers=2),
        {},
    ),
}


def write_emitted(folder: Path, family: str, precision: Precision = "fp32") -> Manifest:
    task, config, _ = CONFIGS[family]
    torch.manual_seed(0)
    roles = {
        "language_model": ("tokens",),
        "tagger": ("words", "characters", "tags"),
        "encoder_decoder": ("source", "target"),
    }[task]
    model = build_model(config, dict.fromkeys(roles, VOCABULARY)).eval()
    emitted = emit(model, precision, top_k=5)
    for kind, graph in emitted.graphs.items():
        onnx.save(graph, folder / emitted.specs[kind].file)
    return Manifest(
        name="random",
        version=1,
        task=task,
        precision=precision,
        graphs=emitted.specs,
        states=emitted.states,
        memories=emitted.memories,
        tokenizers={role: TokenizerSpec(kind="none", vocabulary=f"{role}.json") for role in roles},
        created="2026-01-01T00:00:00Z",
        files={},
    )


def write_tiny(write: Callable[..., Manifest]) -> Callable[[Path], Manifest]:
    return lambda folder: write(folder, tiny_models.make_table())


FAMILIES: dict[str, Callable[[Path], Manifest]] = {
    **{name: lambda folder, name=name: write_emitted(folder, name) for name in CONFIGS},  # type: ignore[misc]
    "language model, int8": lambda folder: write_emitted(folder, "language model, lstm", "int8"),
    "encoder-decoder, int8": lambda folder: write_emitted(folder, "encoder-decoder", "int8"),
    "tiny language model": write_tiny(tiny_models.write_language_model),
    "tiny encoder-decoder": write_tiny(tiny_models.write_encoder_decoder),
    "tiny tagger": write_tiny(tiny_models.write_tagger),
    "imported accumulator": tensor_models.write_accumulator,
    "imported lookup": tensor_models.write_lookup,
    "imported loop": tensor_models.write_patient,
    "imported, padded": tensor_models.write_padded,
    "imported text": lambda folder: tensor_models.write_identity(folder, "string"),
    "imported bfloat16": lambda folder: tensor_models.write_identity(folder, "bfloat16"),
}


def make_inputs(manifest: Manifest, spec: GraphSpec, rng: np.random.Generator) -> dict[str, Array]:
    """A random batch that no two rows of which write the same."""
    rows = int(rng.choice([1, 2, 3, 5, 8, 20, 33, 64, 66, 80]))
    length = int(rng.integers(1, 4))
    rows = min(rows, (NUM_MEMORY_ROWS - 2) // length) if manifest.memories else rows
    places = {
        "read_slots": rng.permutation(np.r_[0, 2:NUM_SLOTS])[:rows],
        "write_slots": rng.permutation(np.arange(2, NUM_SLOTS))[:rows],
    }
    names = {tensor.name for tensor in spec.inputs}
    if manifest.imported is not None:
        made = {**likely_rows(manifest, rows, rng), **shared_inputs(manifest)}
        return made | {name: values.astype(np.int64) for name, values in places.items() if name in names}
    sizes = {"B": rows, "T": length, "S": length, "C": int(rng.integers(1, 5))}
    if manifest.memories:
        places["source_rows"] = rng.permutation(np.arange(2, NUM_MEMORY_ROWS))[: rows * length].reshape(rows, length)
    pools = {state.pool_input for state in manifest.states} | {memory.pool_input for memory in manifest.memories}
    inputs: dict[str, Array] = {}
    for tensor in spec.inputs:
        if tensor.name in pools or (tensor.dtype != "int64" and rng.integers(2)):
            continue  # initial states may be left out
        shape = [sizes[d] if isinstance(d, str) else d for d in tensor.shape]
        most = {"lengths": length, "source_lengths": length, "word_lengths": sizes["C"]}.get(tensor.name)
        if tensor.dtype != "int64":
            inputs[tensor.name] = rng.standard_normal(shape).astype(tensor.dtype)
        elif most is not None:
            inputs[tensor.name] = rng.integers(1, most + 1, shape)
        else:
            inputs[tensor.name] = places[tensor.name] if tensor.name in places else rng.integers(0, 7, shape)
    return {name: np.asarray(value, dtype=value.dtype) for name, value in inputs.items()}


def follow(plain: Runner, device: Runner, num_turns: int = 40, seed: int = 0) -> None:
    """Do the same at random with both, and compare all that can be seen."""
    manifest, rng = plain.manifest, np.random.default_rng(seed)
    pools = [s.pool_input for s in manifest.states if s.pool_input is not None]
    pools += [m.pool_input for m in manifest.memories]
    kinds = list(manifest.graphs)
    for turn in range(num_turns):
        kind = kinds[turn % len(kinds)]
        spec = manifest.graphs[kind]
        inputs = make_inputs(manifest, spec, rng)
        updates = {s.pool_output for s in manifest.states} | {m.pool_output for m in manifest.memories}
        names = [tensor.name for tensor in spec.outputs if tensor.name not in updates]
        outputs = [name for name in names if rng.integers(3)]
        if not outputs and not updates & {tensor.name for tensor in spec.outputs}:
            outputs = names  # it has to do something
        expected, got = (runner.run(kind, inputs, outputs) for runner in (plain, device))
        assert got.keys() == expected.keys() == set(outputs)
        for name in outputs:
            assert (got[name].dtype, got[name].shape) == (expected[name].dtype, expected[name].shape)
            assert got[name].tolist() == expected[name].tolist(), (kind, name)
        if pools and turn % 3 == 0:
            rows = rng.permutation(np.arange(2, NUM_SLOTS))[:4].tolist()
            compare(plain.read_rows(rows), device.read_rows(rows))
            values = {name: np.roll(array, 1, axis=0) for name, array in plain.read_rows(rows).items()}
            for runner in (plain, device):
                runner.write_rows(rows, values)
    for pool in pools:
        rest = np.delete(np.arange(len(plain.read_pool(pool))), 1)  # but scratch
        np.testing.assert_array_equal(device.read_pool(pool)[rest], plain.read_pool(pool)[rest])


def compare(expected: Mapping[str, Array], got: Mapping[str, Array]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_answers_as_the_cpu_does(tmp_path: Path, family: str) -> None:
    manifest = FAMILIES[family](tmp_path)
    device = Far().open(tmp_path, manifest, CONFIG)
    assert device.in_place
    follow(Runner(tmp_path, manifest, CONFIG, CPU), device)


@pytest.mark.parametrize("family", FAMILIES)
def test_pools_that_change_places_answer_the_same(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = FAMILIES[family](tmp_path)
    plain = Runner(tmp_path, manifest, CONFIG, CPU)
    copies_instead(monkeypatch)
    device = Far().open(tmp_path, manifest, CONFIG)
    updates = any(tensor.name == "write_slots" for spec in manifest.graphs.values() for tensor in spec.inputs)
    assert device.in_place == (not updates)
    if updates:
        [warning] = device.warnings
        assert warning.startswith("two of each pool, one copied to the other at each run: graph ")
        assert not device.captured and device.uncaptured
    follow(plain, device)


def copies_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no provider update in place, as the proof sees it."""

    def refuse(name: str, graph: Any, manifest: Manifest, pools: DevicePools, num_turns: int) -> None:
        if graph.updated and pools.in_place:
            raise ProbeFailure(f"{name}: not in place")
        prove(name, graph, manifest, pools, num_turns)

    monkeypatch.setattr("service.runtime.device.loading.prove", refuse)


@pytest.mark.parametrize("family", ["language model, lstm", "encoder-decoder", "imported accumulator"])
def test_host_memory_is_a_device_too(tmp_path: Path, family: str) -> None:
    manifest = FAMILIES[family](tmp_path)
    memory: DeviceMemory = HostMemory()
    follow(Runner(tmp_path, manifest, CONFIG, CPU), Runner(tmp_path, manifest, CONFIG, CPU, memory=memory))
