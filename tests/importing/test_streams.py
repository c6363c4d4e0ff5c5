"""Imported models, streamed through the service's runner, do what the original file does in a loop."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.importing import recurrent_models as models
from tests.importing.streams import differences, take

EXACT = 0.0
CLOSE = 1e-5

pytestmark = pytest.mark.slow  # each reads its file in a process of its own


def test_an_lstm_with_its_rows_second(tmp_path: Path) -> None:
    imported = take(tmp_path, models.lstm(), "h=hn", "c=cn")
    axes = {"x": 1, "h": 1, "c": 1, "y": 1}
    found = differences(tmp_path, imported, {"h": "hn", "c": "cn"}, axes, sizes={"time": 2})
    assert max(found.values()) <= CLOSE
    assert [state.batch_axis for state in imported.manifest.states] == [1, 1]
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows is None


@pytest.mark.parametrize(("opset", "ir_version"), [(7, 3), (9, 3), (10, 5), (12, 7), (13, 7), (21, 10)])
def test_operator_sets_old_and_new(opset: int, ir_version: int, tmp_path: Path) -> None:
    imported = take(tmp_path, models.cell(opset=opset, ir_version=ir_version), "state=state_out")
    assert max(differences(tmp_path, imported, {"state": "state_out"}).values()) <= CLOSE


def test_an_lstm_of_before_scatter(tmp_path: Path) -> None:
    imported = take(tmp_path, models.lstm(opset=9, ir_version=3), "h=hn", "c=cn")
    axes = {"x": 1, "h": 1, "c": 1, "y": 1}
    found = differences(tmp_path, imported, {"h": "hn", "c": "cn"}, axes, sizes={"time": 1})
    assert max(found.values()) <= CLOSE


def test_a_delay_line_is_read_before_it_is_written(tmp_path: Path) -> None:
    imported = take(tmp_path, models.delay(), "before=before_out")
    assert max(differences(tmp_path, imported, {"before": "before_out"}).values()) == EXACT


def test_states_that_change_places(tmp_path: Path) -> None:
    imported = take(tmp_path, models.exchange(), "left=left_out", "right=right_out")
    assert max(differences(tmp_path, imported, {"left": "left_out", "right": "right_out"}).values()) == EXACT


def test_states_of_all_types_and_places(tmp_path: Path) -> None:
    states = {"front": "front_out", "back": "back_out", "count": "count_out", "ever": "ever_out", "half": "half_out"}
    imported = take(tmp_path, models.mixed(), *[f"{given}={returned}" for given, returned in states.items()])
    assert max(differences(tmp_path, imported, states, {"front": 1, "back": 2}).values()) == EXACT
    assert [state.dtype for state in imported.manifest.states] == ["float32", "float64", "int64", "bool", "float16"]


@pytest.mark.parametrize(("rate", "grows"), [(16000, True), (8000, False)])
def test_control_flow_on_a_scalar_that_all_rows_share(rate: int, grows: bool, tmp_path: Path) -> None:
    imported = take(tmp_path, models.switched(), "state=stateN")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.shared_examples == {"sr": 16000}
    shared = {"sr": np.array(rate)}
    assert max(differences(tmp_path, imported, {"state": "stateN"}, shared=shared).values()) == EXACT


def test_a_scan_over_time(tmp_path: Path) -> None:
    imported = take(tmp_path, models.scanned(), "s=s_out")
    found = differences(tmp_path, imported, {"s": "s_out"}, {"x": 1, "y": 1}, sizes={"size_T": 3})
    assert max(found.values()) == EXACT


def test_dozens_of_states(tmp_path: Path) -> None:
    states = {f"cache_{index}": f"new_cache_{index}" for index in range(24)}
    imported = take(tmp_path, models.many())
    assert [state.sequence_input for state in imported.manifest.states] == list(states)
    axes: dict[str, int | None] = {f"cache_{index}": index % 2 for index in range(24)}
    assert max(differences(tmp_path, imported, states, axes).values()) <= CLOSE


@pytest.mark.parametrize("rows", [1, 4])
def test_a_fixed_batch_runs_one_sequence_at_a_time_and_says_so(rows: int, tmp_path: Path) -> None:
    imported = take(tmp_path, models.cell(rows), "state=state_out")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows == 1
    assert "one row at a time" in imported.layout.notes[0]
    axis = 0 if rows == 1 else None
    axes = dict.fromkeys(("x", "state", "y"), axis)
    assert max(differences(tmp_path, imported, {"state": "state_out"}, axes).values()) <= CLOSE


def test_a_state_that_has_no_rows(tmp_path: Path) -> None:
    model = models.build(
        [models.value("x", ["B", 2]), models.value("step", [], models.INT64)],
        [models.value("y", ["B", 2]), models.value("step_out", [], models.INT64)],
        [
            models.node("Add", ["step", "one"], ["step_out"]),
            models.node("Cast", ["step_out"], ["number"], to=models.FLOAT),
            models.node("Mul", ["x", "number"], ["y"]),
        ],
        [models.constant("one", 1, np.int64)],
    )
    imported = take(tmp_path, model, "step=step_out")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows == 1
    assert max(differences(tmp_path, imported, {"step": "step_out"}, {"step": None}).values()) == EXACT


def test_a_sequence_starts_from_what_is_given(tmp_path: Path) -> None:
    start = np.arange(models.HIDDEN, dtype=np.float32)
    np.save(tmp_path / "start.npy", start)
    imported = take(tmp_path, models.cell(), f"state=state_out,init={tmp_path / 'start.npy'}")
    found = differences(tmp_path, imported, {"state": "state_out"}, initial={"state": start})
    assert max(found.values()) <= CLOSE
    assert imported.manifest.states[0].initial == "file"


def test_a_sequence_starts_from_a_number(tmp_path: Path) -> None:
    imported = take(tmp_path, models.cell(), "state=state_out,init=-0.5")
    start = np.full(models.HIDDEN, -0.5, np.float32)
    assert max(differences(tmp_path, imported, {"state": "state_out"}, initial={"state": start}).values()) <= CLOSE


def test_a_state_with_a_default_starts_from_it(tmp_path: Path) -> None:
    model = models.cell(1)
    default = np.linspace(-1, 1, models.HIDDEN, dtype=np.float32)
    model.graph.initializer.append(models.constant("state", default[np.newaxis]))
    imported = take(tmp_path, model, "state=state_out")
    assert max(differences(tmp_path, imported, {"state": "state_out"}, initial={"state": default}).values()) <= CLOSE


def test_names_of_the_original_that_are_ours(tmp_path: Path) -> None:
    model = models.cell()
    ours = {"product": "read_slots", "sum": "state_pool_out", "w": "carryover/indices"}
    for each in model.graph.node:
        each.input[:] = [ours.get(name, name) for name in each.input]
        each.output[:] = [ours.get(name, name) for name in each.output]
    model.graph.initializer[0].name = "carryover/indices"
    imported = take(tmp_path, model, "state=state_out")
    assert max(differences(tmp_path, imported, {"state": "state_out"}).values()) <= CLOSE


def test_local_functions_keep_their_operator_sets(tmp_path: Path) -> None:
    function = helper.make_function(
        "strange",
        "Accumulate",
        ["a", "b"],
        ["s"],
        [helper.make_node("Add", ["a", "b"], ["s"])],
        [helper.make_opsetid("", 17)],
    )
    shape: models.Shape = ["B", 2]
    graph = helper.make_graph(
        [
            helper.make_node("Accumulate", ["x", "state"], ["state_out"], domain="strange"),
            models.node("Neg", ["state_out"], ["y"]),
        ],
        "stranger",
        [models.value("x", shape), models.value("state", shape)],
        [models.value("y", shape), models.value("state_out", shape)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("strange", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])
    imported = take(tmp_path, model, "state=state_out")
    assert max(differences(tmp_path, imported, {"state": "state_out"}).values()) == EXACT
    served = onnx.load(imported.folder / "step.onnx")
    assert [f.name for f in served.functions] == ["Accumulate"]


def test_an_output_that_is_an_input_is_left_out_and_said_so(tmp_path: Path) -> None:
    model = models.delay()
    model.graph.output.append(models.value("x", ["B", models.INPUT]))
    imported = take(tmp_path, model, "before=before_out")
    assert imported.layout.notes == ("output x is left out: it is the input of that name as it came",)
    assert max(differences(tmp_path, imported, {"before": "before_out"}).values()) == EXACT


def test_the_original_stays_in_the_bundle_untouched(tmp_path: Path) -> None:
    imported = take(tmp_path, models.cell(), "state=state_out")
    assert imported.manifest.imported is not None
    kept = imported.folder / imported.manifest.imported.original
    assert kept.read_bytes() == (tmp_path / "model.onnx").read_bytes()
