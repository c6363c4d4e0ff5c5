"""What the settings say of how graphs are run reaches those who run them."""

from pathlib import Path

import pytest

from service.lifecycle.launching import runner_config, runners_of
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import Runner, RunnerConfig
from service.settings import Settings
from tests.service import tiny_models as tiny
from tests.service.runtime.device.far import Far


def test_the_settings_say_how_graphs_are_run() -> None:
    settings = Settings(
        provider="cuda", threads=3, num_slots=77, num_memory_rows=2048, tf32=True, cuda_graphs=False, repository="."
    )
    assert runner_config(settings) == RunnerConfig(
        provider="cuda", threads=3, num_slots=77, num_memory_rows=2048, tf32=True, cuda_graphs=False
    )


def test_by_default_products_are_exact_and_steps_captured() -> None:
    config = runner_config(Settings())
    assert not config.tf32
    assert config.cuda_graphs


@pytest.fixture
def on_gpu(tmp_path: Path) -> dict[bool, Runner]:
    """A model on a GPU, by whether its steps are captured."""
    manifest = tiny.write_language_model(tmp_path, tiny.make_table())
    runners = {}
    for captured in (False, True):
        runners[captured] = Far().open(tmp_path, manifest, RunnerConfig("cpu", 1, 16, 64, cuda_graphs=captured))
        runners[captured].provider = CUDA
    return runners


def test_runs_go_side_by_side_on_a_gpu_where_no_captured_ones_are_replayed(
    on_gpu: dict[bool, Runner], caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(runners=3)
    assert runners_of([on_gpu[False], on_gpu[False]], settings) == 3
    assert not caplog.messages
    for runners in ([on_gpu[True]], [on_gpu[False], on_gpu[True]]):
        assert runners_of(runners, settings) == 1
    reason = "its steps are captured as CUDA graphs"
    assert caplog.messages == [f"model {on_gpu[True].manifest.name}: runs one at a time, not 3: {reason}"] * 2
    assert runners_of([on_gpu[False]], Settings()) == 1  # unless it is asked for


def test_nor_where_more_of_them_could_not_be_captured(
    on_gpu: dict[bool, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu[True].warm_up()
    assert any(on_gpu[True].captured.values())
    monkeypatch.setattr(Runner, "uncaptured", "out of memory")
    assert runners_of([on_gpu[True]], Settings(runners=3)) == 1
    assert runners_of([on_gpu[False]], Settings(runners=3)) == 3


def test_on_the_cpu_runs_go_side_by_side(on_gpu: dict[bool, Runner]) -> None:
    on_gpu[True].provider = CPU
    assert runners_of([on_gpu[True]], Settings(runners=3)) == 3
