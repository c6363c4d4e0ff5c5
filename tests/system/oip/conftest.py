"""Counted models, imported as a person would, and servers of them. See docs/oip-scenarios.md."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest

from bench.oip_models import SOURCES, Source
from tests.system.oip.doors import AioDoor, Door, GrpcDoor, HttpDoor, StreamDoor
from tests.system.oip.server import Server, running

IMPORT_TIMEOUT_S = 100
_ids = itertools.count(1000)


@pytest.fixture
def fresh() -> Callable[[], int]:
    """Give correlation ids that nobody has used."""
    return lambda: next(_ids)


def import_model(name: str, source: Source, folder: Path, repository: Path) -> None:
    """Write a model and import it with the command."""
    file = folder / f"{name}.onnx"
    onnx.save(source.build(), file)
    states = [argument for state in source.states for argument in ("--state", state)]
    command = [sys.executable, "-m", "carryover", "import-onnx", str(file), "--repository", str(repository)]
    done = subprocess.run(
        [*command, "--name", name, *states, "--yes"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=IMPORT_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models of `bench.oip_models`."""
    folder = tmp_path_factory.mktemp("oip")
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(
            lambda name: import_model(name, SOURCES[name], folder, folder / "repository"), sorted(SOURCES)
        ):
            pass
    return folder / "repository"


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
