"""What the settings say of how graphs are run reaches those who run them."""

from service.lifecycle.launching import runner_config
from service.runtime.runner import RunnerConfig
from service.settings import Settings


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
