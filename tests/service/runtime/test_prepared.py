from pathlib import Path

import numpy as np
import pytest

from service.runtime import graph, prepared
from service.runtime.graph import Graph
from service.runtime.prepared import Prepared, Shelf
from service.runtime.runner import Runner
from tests.service.engine.harness import open_tiny
from tests.service.tensor_models import write_accumulator


def graph_of(runner: Runner) -> Graph:
    step = runner._graphs["step"]
    assert isinstance(step, Graph)
    return step


def made(num_bytes: int) -> Prepared:
    return Prepared(object(), {"x": np.zeros(num_bytes, np.uint8)}, {})


def test_what_was_used_last_is_kept_within_both_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_MOST", 3)
    monkeypatch.setattr(prepared, "_MOST_BYTES", 100)
    shelf = Shelf()
    for key in range(3):
        shelf.put(key, made(10))
    assert shelf.find(0) is not None
    shelf.put(3, made(10))
    assert [key for key in range(4) if shelf.find(key) is not None] == [0, 2, 3]
    shelf.put(4, made(85))
    assert [key for key in range(5) if shelf.find(key) is not None] == [3, 4]
    shelf.put(5, made(85))
    assert len(shelf) == 1


@pytest.mark.parametrize("width", [2, 400_000])
def test_batches_beyond_the_bound_are_run_and_not_kept(tmp_path: Path, width: int) -> None:
    runner = open_tiny(tmp_path, write_accumulator(tmp_path))
    slots = np.array([2], np.int64)
    before = len(graph_of(runner)._prepared[0])
    for turn in range(3):
        inputs = {"values": np.ones((1, width), np.float32), "scale": np.array(1, np.float32)}
        out = runner.run("step", {**inputs, "read_slots": slots, "write_slots": slots}, ("total",))
        assert out["total"].tolist() == [[width * (turn + 1)]]
    assert len(graph_of(runner)._prepared[0]) == before + (width == 2)


def test_the_sets_of_outputs_that_are_remembered_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_MOST_BINDINGS", 2)
    runner = open_tiny(tmp_path, write_accumulator(tmp_path))
    slots = np.array([2], np.int64)
    inputs = {"values": np.ones((1, 2), np.float32), "scale": np.array(1, np.float32)}
    for outputs in (("total",), ("count",), ("total", "count"), ("twice",), ("twice", "total")):
        out = runner.run("step", {**inputs, "read_slots": slots, "write_slots": slots}, outputs)
        assert set(out) == set(outputs)
        assert len(graph_of(runner)._bindings[0]) <= 2
