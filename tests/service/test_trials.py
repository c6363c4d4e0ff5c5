"""Trials of a model's step graphs: with few slots, and otherwise as the model is served."""

import shutil
from pathlib import Path

import pytest

from export.bundle import hash_files
from export.manifest import Manifest
from service.repository import open_graphs
from service.runtime.runner import Runner, RunnerConfig
from tests.service import tiny_models as tiny
from tests.service.runtime.device.far import Far


def write(folder: Path) -> Manifest:
    """A language model with a variant, and with a memory, which has more rows than there are slots."""
    manifest = tiny.write_language_model(folder, tiny.make_table())
    step = manifest.graphs["step"].model_copy(update={"variants": {"primitive": "step.primitive.onnx"}})
    shutil.copy(folder / step.file, folder / step.variants["primitive"])
    graphs = {**manifest.graphs, "step": step}
    return manifest.model_copy(update={"graphs": graphs, "memories": (tiny.MEMORY,), "files": hash_files(folder)})


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_what_is_captured_in_service_is_captured_in_a_trial(
    tmp_path: Path, cuda_graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[list[int]] = []
    slots: list[int] = []

    def note(runner: Runner) -> None:
        runner.warm_up()
        captured.append(list(runner.captured.get("step", [])))
        slots.append(runner.num_slots)

    monkeypatch.setattr("service.repository.open_runner", lambda *given: Far().open(*given))
    config = RunnerConfig("cpu", 1, num_slots=70, num_memory_rows=512, cuda_graphs=cuda_graphs)
    open_graphs(tmp_path, write(tmp_path), config, note).close()
    assert slots == [16, 16, 70], "two are tried, one is served"
    assert captured == [[1, 2, 4, 8, 16, 32, 64] if cuda_graphs else []] * 3
