"""What figures are true of: the machine and, where a GPU has a part in them, that and how it runs models."""

from dataclasses import replace

import pytest

from service.measuring import host
from service.measuring.crossover import host_of
from service.measuring.host import describe_host
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import RunnerConfig

CONFIG = RunnerConfig()
ON_A_GPU = {
    "rounded factors": replace(CONFIG, tf32=True),
    "single launches": replace(CONFIG, cuda_graphs=False),
    "another GPU": replace(CONFIG, device_id=1),
}


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """The GPUs that the driver knows."""
    found = {0: "NVIDIA H100", 1: "NVIDIA L4"}
    monkeypatch.setattr(host, "name_of_gpu", found.get)
    return found


@pytest.mark.parametrize("provider", [CUDA, "cuda", "auto"])
@pytest.mark.parametrize("change", ON_A_GPU)
def test_figures_of_a_gpu_are_true_of_it_and_of_how_it_runs_models(provider: str, change: str) -> None:
    assert describe_host(provider, ON_A_GPU[change]) != describe_host(provider, CONFIG)
    assert describe_host(provider, CONFIG).endswith("NVIDIA H100, tf32 False, CUDA graphs True")


@pytest.mark.parametrize("provider", [CPU, "cpu"])
@pytest.mark.parametrize("change", ON_A_GPU)
def test_figures_of_the_cpu_are_true_whatever_gpu_there_is(provider: str, change: str) -> None:
    assert describe_host(provider, ON_A_GPU[change]) == describe_host(provider, CONFIG)
    assert describe_host(provider, replace(CONFIG, threads=2)) != describe_host(provider, CONFIG)


def test_a_gpu_that_is_put_in_makes_another_host(gpus: dict[int, str]) -> None:
    before = describe_host("auto", CONFIG)
    gpus.clear()
    assert describe_host("auto", CONFIG) != before and "no GPU" in describe_host("auto", CONFIG)


def test_a_crossover_is_described_as_everything_else_is() -> None:
    assert host_of(CONFIG, "NVIDIA H100") == describe_host("CPU and CUDA", CONFIG)
    for config in (ON_A_GPU["rounded factors"], ON_A_GPU["single launches"], replace(CONFIG, threads=2)):
        assert host_of(config, "NVIDIA H100") != host_of(CONFIG, "NVIDIA H100")
