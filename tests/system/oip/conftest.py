"""Counted models, imported, and servers of them. See docs/oip-scenarios.md."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from bench.oip_models import SOURCES, Source
from importing.pipeline import import_model
from tests.system.oip.doors import AioDoor, Door, GrpcDoor, HttpDoor, StreamDoor
from tests.system.oip.server import Server, running

_ids = itertools.count(1000)


@pytest.fixture
def fresh() -> Callable[[], int]:
    """Give correlation ids that nobody has used."""
    return lambda: next(_ids)


def add_model(name: str, source: Source, repository: Path) -> None:
    """Import a model as the next version of its name."""
    file = repository.parent / "files" / f"{name}.onnx"
    file.parent.mkdir(exist_ok=True)
    onnx.save(source.build(), file)
    import_model(file, repository, name=name, states=source.states)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models of `bench.oip_models`."""
    repository = tmp_path_factory.mktemp("oip") / "repository"
    repository.mkdir()
    for name, source in SOURCES.items():
        add_model(name, source, repository)
    return repository


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
