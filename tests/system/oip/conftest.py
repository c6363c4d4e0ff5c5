"""Counted models, imported, and servers of them. See docs/oip-scenarios.md."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx
import pytest

from bench.oip_models import SOURCES, Source, accumulator
from importing.pipeline import import_model
from tests.system.conftest import carryover
from tests.system.oip.doors import AioDoor, Door, GrpcDoor, HttpDoor, StreamDoor
from tests.system.oip.server import Server, running

BY_COMMAND = "accumulator"  # the other models are imported without starting a process for each
_ids = itertools.count(1000)


@pytest.fixture
def fresh() -> Callable[[], int]:
    """Give correlation ids that nobody has used."""
    return lambda: next(_ids)


def write_model(name: str, source: Source, folder: Path) -> Path:
    """Write a model as a stranger's file."""
    file = folder / f"{name}.onnx"
    folder.mkdir(exist_ok=True)
    onnx.save(source.build(), file)
    return file


def add_model(name: str, source: Source, repository: Path, *, carry_sessions: bool = False) -> None:
    """Import a model as the next version of its name."""
    file = write_model(name, source, repository.parent / "files")
    import_model(
        file,
        repository,
        name=name,
        states=source.states,
        stateless=not source.states,
        company=source.company,
        carry_sessions=carry_sessions,
    )


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models of `bench.oip_models`; the first as a person would import it."""
    repository = tmp_path_factory.mktemp("oip") / "repository"
    for name, source in SOURCES.items():
        if name != BY_COMMAND:
            add_model(name, source, repository)
    source = SOURCES[BY_COMMAND]
    file = write_model(BY_COMMAND, source, repository.parent / "files")
    states = [argument for state in source.states for argument in ("--state", state)]
    done = carryover("import-onnx", str(file), "--repository", str(repository), *states, "--yes", cwd=file.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return repository


def versioned(version: int) -> Source:
    """A counter that says in VERSION which version it is."""
    return Source(lambda: accumulator(version=version), ("total=total_out", "steps=steps_out"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with version 1 of `counted` and of `other`."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("counted", "other"):
        add_model(name, versioned(1), repository)
    return repository


def some_of(repository: Path, names: Iterable[str], folder: Path) -> Path:
    """A repository of some of the models alone, which is served sooner."""
    for name in names:
        shutil.copytree(repository / name, folder / "some" / name, copy_function=os.link)
    return folder / "some"


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """A server as it comes, for the tests that leave nothing behind."""
    with running(repository) as served:
        yield served


DOORS: dict[str, Callable[[Server], Door]] = {
    "grpc": lambda server: GrpcDoor(server.grpc),
    "aio": lambda server: AioDoor(server.grpc),
    "stream": lambda server: StreamDoor(server.grpc),
    "http": lambda server: HttpDoor(server.http),
}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, server: Server) -> Iterator[Door]:
    """Each way to ask."""
    opened = DOORS[request.param](server)
    yield opened
    opened.close()


@pytest.fixture
def grpc_door(server: Server) -> Iterator[GrpcDoor]:
    """The plainest way to ask."""
    opened = GrpcDoor(server.grpc)
    yield opened
    opened.close()
