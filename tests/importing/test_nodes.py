"""The standard's cases of LSTM, GRU and RNN, imported and served: its own outputs are the oracle."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.manifest import Manifest
from importing.errors import ImportRefused
from importing.pipeline import import_model
from service.engine.interface import ExportSession, RunTensors, SessionState, StepTensors, TensorOutputs
from tests.importing.node_cases import OPERATORS, Array, NodeCase, node_cases
from tests.service.engine.harness import Harness, open_tiny, running

pytestmark = pytest.mark.slow
LIMIT = 1e-5
# What the runtime has no kernels for: batch-first layout.
REFUSED = {"lstm_batchwise": "layout == 1", "gru_batchwise": "layout == 1", "simple_rnn_batchwise": "layout == 1"}
# Those whose steps can be taken one at a time; a backward state begins at the end.
STEPWISE = (
    "gru_defaults",
    "gru_seq_length",
    "gru_with_initial_bias",
    "lstm_defaults",
    "lstm_with_initial_bias",
    "lstm_with_peepholes",
    "rnn_seq_length",
    "simple_rnn_defaults",
    "simple_rnn_with_initial_bias",
)
WHOLE = (
    *STEPWISE,
    *(f"{kind}_{direction}" for kind in ("gru", "lstm", "simple_rnn") for direction in ("bidirectional", "reverse")),
)


def write(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "node.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_every_case_of_the_standard_is_below() -> None:
    assert sorted(node_cases()) == sorted([*WHOLE, *REFUSED])
    assert {case.node.op_type for case in node_cases().values()} == set(OPERATORS)
    assert sorted(name for name, case in node_cases().items() if case.is_forward) == sorted(STEPWISE)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_runtime_cannot_run_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=REFUSED[name]):
        import_model(write(node_cases()[name].model, tmp_path), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("name", WHOLE)
def test_as_it_is_it_gives_what_the_standard_gives(name: str, tmp_path: Path) -> None:
    case = node_cases()[name]
    imported = import_model(write(case.model, tmp_path), tmp_path / "repository", stateless=True)
    (graph,) = imported.manifest.graphs.values()
    with running(open_tiny(imported.folder, imported.manifest)) as harness:
        inputs = {
            tensor.name: case.inputs[tensor.name].reshape(1, *(int(size) for size in tensor.shape[1:]))
            for tensor in graph.inputs
        }
        value = harness.value(harness.submit(RunTensors(harness.new_id(), inputs, {}, 1, tuple(case.outputs))))
    assert isinstance(value, TensorOutputs)
    for output, expected in case.outputs.items():
        compare(value.tensors[output], expected)


@pytest.mark.parametrize("name", STEPWISE)
def test_step_by_step_its_sessions_end_where_the_standard_ends(name: str, tmp_path: Path) -> None:
    """Each row of the case is a session; the states are found by themselves."""
    case = node_cases()[name]
    imported = import_model(write(case.stepwise(), tmp_path), tmp_path / "repository")
    assert [state.sequence_input for state in imported.manifest.states][:1] == ["initial_h"]
    num_steps, num_rows, _ = case.inputs["X"].shape
    with running(open_tiny(imported.folder, imported.manifest)) as harness:
        for row in range(num_rows):
            harness.open(row)
        for step in range(num_steps):
            for row in range(num_rows):
                harness.submit(StepTensors(harness.new_id(), row, {"x": case.inputs["X"][step, row][None]}, {}, 1, ()))
        for row in range(num_rows):
            compare(hidden(harness, imported.manifest, row), case.outputs["Y_h"][:, row])
            harness.close(row)


def hidden(harness: Harness, manifest: Manifest, session: int) -> Array:
    value = harness.value(harness.submit(ExportSession(harness.new_id(), session)))
    assert isinstance(value, SessionState)
    (name,) = (state.name for state in manifest.states if state.sequence_input == "initial_h")
    return value.tensors[name]


def compare(got: Array, expected: Array) -> None:
    assert np.abs(expected).max() > 100 * LIMIT
    np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=LIMIT, rtol=0)


def test_a_case_that_is_spoilt_is_noticed(tmp_path: Path) -> None:
    case: NodeCase = node_cases()["lstm_defaults"]
    with pytest.raises(AssertionError):
        compare(case.outputs["Y_h"] + 2 * LIMIT, case.outputs["Y_h"])
