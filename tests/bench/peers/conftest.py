"""The small model of the benchmarks' tests as the peers are given it."""

from pathlib import Path

import pytest

from bench.peers import graph
from bench.peers.answers import RightAnswers


@pytest.fixture(scope="package")
def plain_graph(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its step graph without pools."""
    return graph.write(bundle, tmp_path_factory.mktemp("peers") / "step.onnx")


@pytest.fixture
def right(plain_graph: Path) -> RightAnswers:
    return RightAnswers(plain_graph)
