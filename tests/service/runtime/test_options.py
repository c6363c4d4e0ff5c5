from pathlib import Path

import onnxruntime as ort
import pytest

from service.runtime import scratch
from service.runtime.options import run_options
from service.runtime.runner import Runner
from tests.service import tiny_models as tiny
from tests.service.engine.harness import open_tiny
from tests.service.runtime.device.test_resident import GOOD


def test_runs_say_that_they_are_not_captured_unless_they_are() -> None:
    assert run_options().get_run_config_entry("gpu_graph_id") == "-1"
    assert run_options("7").get_run_config_entry("gpu_graph_id") == "7"


def test_every_run_says_whether_it_is_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not said costs an exception a run."""
    said = []
    real = ort.InferenceSession.run_with_iobinding

    def run(self: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions | None = None) -> None:
        said.append("nothing" if options is None else options.get_run_config_entry("gpu_graph_id"))
        real(self, binding, options)

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", run)
    runner: Runner = open_tiny(tmp_path, tiny.write_language_model(tmp_path, tiny.make_table()))
    said.clear()
    runner.run("step", GOOD, ("top_tokens",))
    runner.run("step", GOOD, ("top_tokens",), lane=1)
    with runner.shrinking():
        runner.run("step", GOOD, ("top_tokens",))
    runner.run("step", GOOD, ("log_probs",))
    assert said == ["-1"] * 4
    assert scratch.shrinking().get_run_config_entry("gpu_graph_id") == "-1"
