"""Write a bundle as a model of the reference server's repository, so that nobody is locked in.

    <directory>/<name>/config.pbtxt
    <directory>/<name>/<version>/model.onnx
    <directory>/<name>/initial_state/<state>      raw values of states that do not start as zeros

States are implicit ones: the server keeps them by sequence and batches steps of several sequences, each of which copies
its state in and out. A tagger that sees whole sentences becomes a model without state.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from export.bundle import load_manifest
from export.manifest import Manifest, StateSpec, Task
from export.triton.config import Config, State, Tensor
from export.triton.errors import TritonError
from export.triton.from_zeros import start_from_zeros
from export.triton.signature import signature
from export.triton.unpool import unpool

# Rows of one run where the model sets no bound.
MAX_BATCH_SIZE: Final = 64
_ROWS: Final = "B"


@dataclass(frozen=True)
class TritonModel:
    """What was written.

    Args:
        folder: `<directory>/<name>`.
        notes: What the reference server will not do with it that the service does; a line each.
    """

    folder: Path
    notes: tuple[str, ...]


def check_family(task: Task) -> None:
    """Check that models of a task can be expressed there at all.

    Raises:
        TritonError: They cannot.
    """
    if task == "encoder_decoder":
        raise TritonError(
            "encoder-decoder: expected states of a fixed size, got an attention memory, which grows with the source, "
            "and a search that runs several rows of a request: the reference server's sequences have neither"
        )


def write_repository(bundle: Path, directory: Path) -> TritonModel:
    """Write a bundle into a repository of the reference server, as the bundle's own version.

    Args:
        bundle: `<repository>/<name>/<version>`, as published.
        directory: The other repository; made if need be.

    Raises:
        BundleError: The bundle is not what it should be.
        TritonError: The model cannot be expressed there, or the directory has another model of that name and version.
    """
    manifest = load_manifest(bundle)
    model, states, notes = _graph(bundle, manifest)
    inputs, outputs = signature(model)
    max_batch_size = _max_batch_size(manifest, inputs, outputs)
    if not max_batch_size:
        notes += ("it is not batched: runs of the reference server take the step of one sequence at a time",)
        model, states = _whole(bundle, manifest, model, states)
        inputs, outputs = signature(model)
    names = {name for state in states for name in (state.input, state.output)}
    files = _initial_files(bundle, manifest)
    config = Config(
        name=manifest.name,
        max_batch_size=max_batch_size,
        inputs=tuple(tensor for tensor in inputs if tensor.name not in names),
        outputs=tuple(tensor for tensor in outputs if tensor.name not in names),
        states=states,
    )
    if not config.inputs or not config.outputs:
        raise TritonError(f"model {manifest.name}: expected inputs and outputs besides its states, got none")
    with _publishing(directory, manifest) as folder:
        (folder / "config.pbtxt").write_text(config.text(), encoding="ascii")
        version = folder / str(manifest.version)
        version.mkdir()
        onnx.save_model(model, version / "model.onnx")
        for name, data in files.items():
            (folder / "initial_state").mkdir(exist_ok=True)
            (folder / "initial_state" / name).write_bytes(data)
    return TritonModel(directory / manifest.name, notes)


def _graph(bundle: Path, manifest: Manifest) -> tuple[onnx.ModelProto, tuple[State, ...], tuple[str, ...]]:
    """The graph with its rows first, its states, and what is lost."""
    check_family(manifest.task)
    if "step" in manifest.graphs:
        model = onnx.load_model(bundle / manifest.graphs["step"].file)
        model, explicit = unpool(model, (state for state in manifest.states if state.pool_input is not None))
        return model, tuple(_state(s.spec, s.input, s.output, s.shape) for s in explicit), ()
    if "run" in manifest.graphs:
        return onnx.load_model(bundle / manifest.graphs["run"].file), (), ()
    spec = manifest.graphs["sequence"]
    rows_of = next(tensor.name for tensor in spec.inputs if tensor.shape[0] == _ROWS)
    model = start_from_zeros(onnx.load_model(bundle / spec.file), manifest.states, rows_of)
    lost = ("its outputs are the scores of each tag: the search for the best sequence of tags is the client's",)
    return model, (), lost if manifest.crf_file else ()


def _whole(
    bundle: Path, manifest: Manifest, model: onnx.ModelProto, states: tuple[State, ...]
) -> tuple[onnx.ModelProto, tuple[State, ...]]:
    """The graph and states of a model that runs one row at a time, the batch axis being a size like any other.

    That is the original as it came, but where one of its states is a single number, which is no state there.
    """
    if manifest.imported is None or not all(_original_shape(spec) for spec in manifest.states):
        return model, tuple(replace(state, dims=(1, *state.dims)) for state in states)
    original = onnx.load_model(bundle / manifest.imported.original)
    return original, tuple(
        _state(spec, str(spec.sequence_input), str(spec.sequence_output), _original_shape(spec))
        for spec in manifest.states
    )


def _original_shape(spec: StateSpec) -> tuple[int, ...]:
    """What the original takes as the state of one row."""
    if spec.batch_axis is None:
        return spec.shape
    return *spec.shape[: spec.batch_axis], 1, *spec.shape[spec.batch_axis :]


def _max_batch_size(manifest: Manifest, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Rows of a run; 0 where not all that it takes and gives has rows first, and any number of them."""
    rows = MAX_BATCH_SIZE
    if manifest.imported is not None and manifest.imported.max_rows is not None:
        rows = min(rows, manifest.imported.max_rows)
    free = all(tensor.shape and tensor.shape[0] == -1 for tensor in (*inputs, *outputs))
    return rows if free and rows > 1 and not _shared(manifest) else 0


def _shared(manifest: Manifest) -> tuple[str, ...]:
    """Inputs that have one value for all rows."""
    if manifest.imported is None:
        return ()
    (graph,) = manifest.graphs.values()
    pools = {state.pool_input for state in manifest.states}
    own = (tensor for tensor in graph.inputs if tensor.name not in pools)
    return tuple(tensor.name for tensor in own if not tensor.shape or tensor.shape[0] != _ROWS)


def _state(spec: StateSpec, source: str, target: str, dims: tuple[int, ...]) -> State:
    return State(source, target, spec.dtype, dims, initial_file=spec.name if spec.initial == "file" else None)


def _initial_files(bundle: Path, manifest: Manifest) -> dict[str, bytes]:
    """By state that does not start as zeros, its raw values."""
    wanted: list[StateSpec] = [state for state in manifest.states if state.initial == "file"]
    if not wanted:
        return {}
    assert manifest.initial_states_file is not None
    with np.load(bundle / manifest.initial_states_file, allow_pickle=False) as arrays:
        files = {}
        for state in wanted:
            array = np.ascontiguousarray(arrays[state.name])
            files[state.name] = array.astype(array.dtype.newbyteorder("<")).tobytes()
        return files


@contextmanager
def _publishing(directory: Path, manifest: Manifest) -> Iterator[Path]:
    """Give a folder to fill, and bring what is in it to where it belongs, the version last."""
    home = directory / manifest.name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as scratch:
            folder = Path(scratch) / manifest.name
            folder.mkdir()
            yield folder
            if not home.exists():
                os.rename(folder, home)
                return
            _check_same(home, folder, manifest.version)
            os.rename(folder / str(manifest.version), home / str(manifest.version))
    except OSError as error:
        raise TritonError(f"directory {directory}: expected a folder that can be written, got {error}") from error


def _check_same(home: Path, folder: Path, version: int) -> None:
    """What all versions of a model share must be the same; a version that is there stays."""
    if (home / str(version)).exists():
        raise TritonError(f"{home}: expected no version {version}, got one")
    for path in (path for path in folder.rglob("*") if path.is_file() and path.parent.name != str(version)):
        there = home / path.relative_to(folder)
        if not there.is_file() or there.read_bytes() != path.read_bytes():
            raise TritonError(
                f"{there}: expected what version {version} needs, which all versions share, got another: "
                "write it to another directory"
            )
