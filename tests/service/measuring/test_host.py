"""What figures are true of: the machine and, where a GPU has a part in them, that and how it runs models."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from service.measuring import host
from service.measuring.crossover import host_of
from service.measuring.host import describe_host, write
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


class Figures(BaseModel):
    """Something that was measured."""

    rows: int


def test_two_processes_of_one_number_write_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers that share a folder: whoever is second has all of its own there, and nothing is left of the first."""
    path, replace_file, partials = tmp_path / "host-profiles" / "a.json", os.replace, list[str]()

    def while_another_writes(partial: str, target: Path) -> None:
        partials.append(str(partial))
        if len(partials) == 1:
            write(path, Figures(rows=2))
        replace_file(partial, target)

    monkeypatch.setattr("os.replace", while_another_writes)
    write(path, Figures(rows=1))
    assert Figures.model_validate_json(path.read_bytes()) == Figures(rows=1)
    assert len(set(partials)) == 2 and list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644, "for a service of another account, too"


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "host-profiles" / "a.json"
    path.mkdir(parents=True)
    with pytest.raises(OSError, match=r"a\.json"):
        write(path, Figures(rows=1))
    assert list(path.parent.iterdir()) == [path]
