"""A short stress: clients that behave well, badly, and die; see `bench.oip_stress` for the long one."""

from pathlib import Path

import onnx
import pytest

from bench.oip_models import SOURCES, Source, accumulator
from bench.oip_stress import Options, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_every_answer_is_exact_and_nothing_is_left(tmp_path: Path) -> None:
    outcome = run(Options(seconds=20, clients=2, crashing=1, seed=5), tmp_path)
    assert outcome.faults == []
    assert outcome.counts["answers"] > 200
    assert outcome.killed >= 2
    for kind in ("valid", "twice", "not ended", "not started", "cancelled stream", "cancelled call", "timed out"):
        assert outcome.counts[kind] > 0


def forgetful() -> onnx.ModelProto:
    """An accumulator that keeps its sum and tells only the last input."""
    model = accumulator()
    (told,) = (node for node in model.graph.node if node.output == ["OUTPUT"])
    told.input[:] = ["INPUT"]
    return model


def test_a_server_that_counts_wrongly_is_found_out(tmp_path: Path) -> None:
    sources = {**SOURCES, "accumulator": Source(forgetful, SOURCES["accumulator"].states)}
    outcome = run(Options(seconds=15, clients=1, crashing=0), tmp_path, sources)  # ends with the first fault
    assert any("expected [[(" in fault for fault in outcome.faults), outcome.faults
