"""Stream random sequences through an imported bundle as the service does, and through the original file in a loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from importing.pipeline import ImportedModel, import_model
from importing.states.pairs import StateOption
from service.runtime.opening import open_runner
from service.runtime.runner import RunnerConfig

Array = npt.NDArray[Any]
SLOTS = 12


def write(folder: Path, model: onnx.ModelProto) -> Path:
    """Write a model that is to be imported."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def take(folder: Path, model: onnx.ModelProto, *states: str | StateOption, **options: Any) -> ImportedModel:
    """Import a model."""
    return import_model(write(folder, model), folder / "repository", states=states, **options)


def draw(generator: np.random.Generator, name: str, dtype: str, shape: Sequence[int]) -> Array:
    """Random values of a type."""
    if dtype == "bool":
        return generator.random(shape) < 0.5
    if dtype.startswith(("int", "uint")):
        return generator.integers(0, 2, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)


def differences(
    folder: Path,
    imported: ImportedModel,
    states: Mapping[str, str],
    axes: Mapping[str, int | None] = {},
    shared: Mapping[str, Array] = {},
    initial: Mapping[str, Array] = {},
    sizes: Mapping[str, int] = {},
    num_sequences: int = 3,
    num_steps: int = 5,
) -> dict[str, float]:
    """Run sequences in changing company on a runner, each alone in the original; compare every output and state.

    Args:
        folder: Where `write` put the original.
        imported: From it.
        states: By input of the original, its output.
        axes: By tensor of the original, where its rows are; 0 where nothing is said, None: nowhere.
        shared: Values of inputs that all rows share.
        initial: By state, its initial value in the original's shape for one row; zeros where nothing is said.
        sizes: By free size, which to use.
        num_sequences: How many.
        num_steps: Of each.

    Returns:
        By output and state of the original, the largest absolute difference.
    """
    original = ort.InferenceSession((folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    runner = open_runner(imported.folder, imported.manifest, RunnerConfig(provider="cpu", threads=1, num_slots=SLOTS))
    generator = np.random.default_rng(7)
    graph = imported.manifest.graphs["step"]
    own = [tensor.name for tensor in graph.inputs if tensor.shape[:1] == ("B",) and not tensor.name.endswith("_slots")]
    specs = {tensor.name: tensor for tensor in graph.inputs}
    pools = {state.pool_output for state in imported.manifest.states}
    outputs = [tensor.name for tensor in graph.outputs if tensor.name not in pools]
    names = {state.sequence_input: state for state in imported.manifest.states}
    walks: list[dict[str, Array]] = [_first(original, states, axes, initial, names) for _ in range(num_sequences)]
    taken, worst = [0] * num_sequences, dict.fromkeys([*outputs, *states], 0.0)
    most = imported.manifest.imported.max_rows or num_sequences if imported.manifest.imported else 0
    while waiting := [index for index in range(num_sequences) if taken[index] < num_steps]:
        members = [int(index) for index in generator.permutation(waiting)[: int(generator.integers(1, most + 1))]]
        rows = [
            {
                name: draw(
                    generator,
                    name,
                    specs[name].dtype,
                    [1, *[sizes[d] if isinstance(d, str) else d for d in specs[name].shape[1:]]],
                )
                for name in own
            }
            for _ in members
        ]
        feeds = {name: np.concatenate([row[name] for row in rows]) for name in own}
        got = runner.run(
            "step",
            {
                **feeds,
                **shared,
                "read_slots": np.array([2 + index if taken[index] else 0 for index in members], np.int64),
                "write_slots": np.array([2 + index for index in members], np.int64),
            },
            tuple(outputs),
        )
        for position, (index, row) in enumerate(zip(members, rows, strict=True)):
            plain = {name: _back(array, axes.get(name, 0)) for name, array in row.items()}
            values = original.run(None, {**plain, **shared, **walks[index]})
            results = dict(zip([value.name for value in original.get_outputs()], values, strict=True))
            walks[index] = {given: results[returned] for given, returned in states.items()}
            taken[index] += 1
            for name in outputs:
                expected = _row(results[name], axes.get(name, 0))
                worst[name] = max(worst[name], _apart(expected, got[name][position]))
            kept = runner.read_rows([2 + index])
            for given in states:
                expected = _row(walks[index][given], axes.get(given, 0))
                worst[given] = max(worst[given], _apart(expected, kept[names[given].name][0]))
    runner.close()
    return worst


def _first(
    original: ort.InferenceSession,
    states: Mapping[str, str],
    axes: Mapping[str, int | None],
    initial: Mapping[str, Array],
    names: Mapping[str | None, Any],
) -> dict[str, Array]:
    first = {}
    for name in states:
        row = np.asarray(initial.get(name, np.zeros(names[name].shape)), names[name].dtype)
        axis = axes.get(name, 0)
        first[name] = row if axis is None else np.expand_dims(row, axis)
    return first


def _back(array: Array, axis: int | None) -> Array:
    return array[0] if axis is None else np.moveaxis(array, 0, axis)


def _row(array: Array, axis: int | None) -> Array:
    return array if axis is None else np.take(array, 0, axis)


def _apart(expected: Array, got: Array) -> float:
    assert expected.shape == got.shape, (expected.shape, got.shape)
    if expected.dtype.kind in "bOU":
        return float((expected != got).sum())
    return float(np.abs(expected.astype(np.float64) - got.astype(np.float64)).max(initial=0))
