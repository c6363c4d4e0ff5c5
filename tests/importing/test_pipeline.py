"""What is imported, what is refused with which reason, and that a refusal leaves nothing behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import importing.pipeline
from export.manifest import GraphSpec
from importing.checks import BATCHED, PADDED, POOLED
from importing.errors import AmbiguousStates, CheckFailed, ImportRefused
from importing.layout import Layout
from importing.pipeline import default_name, import_model
from importing.rewrite import rewrite
from importing.states.pairs import StateOption
from service.runtime.opening import open_runner
from service.runtime.runner import RunnerConfig
from tests.importing import recurrent_models as models
from tests.importing.streams import take, write

pytestmark = pytest.mark.slow  # each reads its file in a process of its own


def test_a_bundle_says_what_it_was_made_from(tmp_path: Path) -> None:
    imported = take(tmp_path, models.lstm(), name="counted")
    manifest = imported.manifest
    assert imported.folder == tmp_path / "repository" / "counted" / "1"
    assert (manifest.task, manifest.precision, manifest.tokenizers) == ("tensors", "fp32", {})
    assert manifest.data["opsets"] == {"ai.onnx": 17}
    assert manifest.imported is not None
    assert manifest.imported.examples == {"time": 1}
    step = manifest.graphs["step"]
    assert {tensor.name: tensor.shape for tensor in step.inputs} == {
        "x": ("B", "time", 3),
        "read_slots": ("B",),
        "write_slots": ("B",),
        "h_pool": ("N", 1, 4),
        "c_pool": ("N", 1, 4),
    }
    assert {tensor.name: tensor.shape for tensor in step.outputs}["y"] == ("B", "time", 4)
    report = json.loads((imported.folder / "import.json").read_text())
    assert {check["check"] for check in report["checks"]} == {POOLED, BATCHED}
    assert [state["found"] for state in report["states"]] == ["recurrent operators"] * 2


def test_the_next_import_is_the_next_version(tmp_path: Path) -> None:
    assert [take(tmp_path, models.cell()).manifest.version for _ in range(2)] == [1, 2]


def test_sessions_may_go_on_only_where_its_owner_says_so(tmp_path: Path) -> None:
    assert not take(tmp_path, models.cell()).manifest.carry_sessions
    assert take(tmp_path, models.cell(), carry_sessions=True).manifest.carry_sessions


def test_a_model_without_state_is_batched(tmp_path: Path) -> None:
    model = models.build(
        [models.value("x", ["T", "B", 3])],
        [models.value("y", ["B", 2])],
        [
            models.node("MatMul", ["x", "w"], ["product"]),
            models.node("ReduceMean", ["product"], ["y"], axes=[0], keepdims=0),
        ],
        [models.weight("w", 3, 2)],
    )
    imported = take(tmp_path, model, stateless=True)
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows is None
    run = imported.manifest.graphs["run"]
    assert run.inputs[0].shape == ("B", "size_T", 3)
    runner = open_runner(imported.folder, imported.manifest, RunnerConfig(provider="cpu", threads=1))
    x = np.random.default_rng(1).standard_normal((5, 7, 3)).astype(np.float32)
    w = onnx.numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(runner.run("run", {"x": x}, ("y",))["y"], (x @ w).mean(axis=1), atol=1e-6)


def attend(masked: bool = True) -> onnx.ModelProto:
    """Running mean over the words that `lengths` leaves: x (B, T, 3), lengths (B) -> y (B, T, 3), mean (B, 3)."""
    weights = [models.constant("zero", 0, np.int64), models.constant("one", 1, np.int64)]
    weights += [models.constant("last", [1], np.int64), models.constant("both", [1, 2], np.int64)]
    limit = "column" if masked else "everything"
    nodes = [
        models.node("Shape", ["x"], ["shape"]),
        models.node("Gather", ["shape", "one"], ["T"], axis=0),
        models.node("Range", ["zero", "T", "one"], ["positions"]),
        models.node("Unsqueeze", ["lengths", "last"], ["column"]),
        models.node("Add", ["column", "positions"], ["everything"]),
        models.node("Less", ["positions", limit], ["mask"]),
        models.node("Cast", ["mask"], ["numbers"], to=models.FLOAT),
        models.node("Unsqueeze", ["numbers", "deep"], ["weights"]),
        models.node("Mul", ["x", "weights"], ["y"]),
        models.node("ReduceSum", ["y", "last"], ["sum"], keepdims=0),
        models.node("ReduceSum", ["weights", "last"], ["count"], keepdims=0),
        models.node("Div", ["sum", "count"], ["mean"]),
    ]
    return models.build(
        [models.value("x", ["B", "words", 3]), models.value("lengths", ["B"], models.INT64)],
        [models.value("y", ["B", "words", 3]), models.value("mean", ["B", 3])],
        nodes,
        [*weights, models.constant("deep", [2], np.int64)],
    )


def test_rows_of_different_lengths_are_padded_where_lengths_are_declared(tmp_path: Path) -> None:
    imported = take(tmp_path, attend(), stateless=True, lengths="lengths")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.lengths_input == "lengths"
    run = imported.manifest.graphs["run"]
    assert {tensor.name: tensor.shape for tensor in (*run.inputs, *run.outputs)} == {
        "x": ("B", "T", 3),
        "lengths": ("B",),
        "y": ("B", "T", 3),
        "mean": ("B", 3),
    }
    assert {check.tensor for check in imported.checks if check.check == PADDED} == {"y", "mean"}


def test_a_model_that_does_not_heed_its_lengths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="padded = alone: mean"):
        take(tmp_path, attend(masked=False), stateless=True, lengths="lengths")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"states": ["state"]}, r"--state: expected IN=OUT"),
        ({"states": ["nothing=state_out"]}, "input 'nothing': expected one of"),
        ({"states": ["state=nothing"]}, "output 'nothing': expected one of"),
        ({"states": ["state=state_out", "state=y"]}, "expected each input once, got state twice"),
        ({"states": ["x=state_out"]}, r"state x=state_out: expected one shape, got \['B', 3\] and \['B', 4\]"),
        ({"states": ["state=state_out,axis=2"]}, r"axis: expected one whose size is free or 1, got 2"),
        ({"states": ["state=state_out,axis=1"]}, r"axis: expected one whose size is free or 1, got 1"),
        ({"states": ["state=state_out"], "inputs": ["nothing"]}, "input 'nothing': expected one of"),
        ({"states": ["state=state_out"], "inputs": ["state"]}, "--input state: expected an input that is no state"),
        ({"examples": {"B": 2}}, "--example B: expected a free size that is not the rows of a batch"),
        ({"examples": {"x": 2}}, "--example x: expected an input that all rows share"),
        ({"examples": {"typo": 5}}, r"expected the name of a free size or of an input \(B, x\), got 'typo'"),
        ({"states": ["state=state_out"], "stateless": True}, "expected states or none"),
        ({"states": ["state=state_out"], "lengths": "x"}, "--lengths: expected a model without state"),
        ({"stateless": True, "lengths": "x"}, r"--lengths: expected int32 or int64 of shape \[B\]"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    file = write(tmp_path, models.cell())
    with pytest.raises(ImportRefused, match=reason):
        import_model(file, tmp_path / "repository", **options)
    assert not (tmp_path / "repository").exists()


def test_a_state_that_grows_is_refused(tmp_path: Path) -> None:
    shape: models.Shape = ["B", "past", 2]
    model = models.build(
        [models.value("x", ["B", 1, 2]), models.value("past_key", shape)],
        [models.value("y", ["B", 1, 2]), models.value("present_key", ["B", "all", 2])],
        [models.node("Concat", ["past_key", "x"], ["present_key"], axis=1), models.node("Neg", ["x"], ["y"])],
    )
    with pytest.raises(ImportRefused, match="state past_key=present_key: expected the shape that it had"):
        take(tmp_path, model)


def test_a_state_whose_size_the_model_leaves_open_is_asked_for(tmp_path: Path) -> None:
    shape: models.Shape = ["B", "wide"]
    model = models.build(
        [models.value("x", ["B", 1]), models.value("state", shape)],
        [models.value("y", shape), models.value("state_out", shape)],
        [models.node("Add", ["state", "x"], ["state_out"]), models.node("Neg", ["state_out"], ["y"])],
    )
    with pytest.raises(ImportRefused, match=r"expected one size of wide, .* --example wide=SIZE"):
        take(tmp_path, model)
    assert take(tmp_path, model, examples={"wide": 5}).manifest.states[0].shape == (5,)


@pytest.mark.parametrize("size", [1.5, 0, -3, float("inf"), float("nan"), 1e30])
def test_a_size_that_is_no_whole_number_is_refused(size: float, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"--example time: expected a whole number of at least 1, got"):
        take(tmp_path, models.lstm(), examples={"time": size})


def test_a_size_may_be_called_as_it_is_shown(tmp_path: Path) -> None:
    imported = take(tmp_path, models.scanned(), "s=s_out", examples={"size_T": 3}).manifest.imported
    assert imported is not None
    assert imported.examples == {"size_T": 3}


@pytest.mark.parametrize("number", [0.5, float("inf"), float("nan"), 2.0**63])
def test_a_shared_value_that_its_type_does_not_have_is_refused(number: float, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"--example sr: expected a number of type int64, got"):
        take(tmp_path, models.switched(), examples={"sr": number})


def test_a_size_that_follows_may_be_said_if_it_is_right(tmp_path: Path) -> None:
    model = models.cell()
    for info in (model.graph.input[1], model.graph.output[1]):
        info.type.tensor_type.shape.dim[1].dim_param = "hidden"
    assert take(tmp_path, model, examples={"hidden": models.HIDDEN}).manifest.states[0].shape == (models.HIDDEN,)
    with pytest.raises(ImportRefused, match="--example hidden: expected 4, which follows from the graph, got 5"):
        take(tmp_path, model, examples={"hidden": 5})


def test_the_time_of_padded_rows_is_called_as_the_model_has_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"stateless": True, "lengths": "lengths"}
    imported = take(tmp_path, attend(), examples={"words": 7}, **options).manifest.imported
    assert imported is not None
    assert imported.examples == {"T": 7}


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16"])
def test_values_of_shared_inputs_that_are_tried_fit_their_type(dtype: str, tmp_path: Path) -> None:
    """The graph compares the number with one that its type does not have, which is no hint, then."""
    number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = models.build(
        [models.value("x", ["B", 2]), models.value("state", ["B", 2]), models.value("mode", [], number)],
        [models.value("y", ["B", 2]), models.value("state_out", ["B", 2])],
        [
            models.node("Cast", ["mode"], ["mode_number"], to=models.FLOAT),
            models.node("Less", ["mode_number", "much"], ["small"]),
            models.node("Cast", ["small"], ["factor"], to=models.FLOAT),
            models.node("Mul", ["x", "factor"], ["product"]),
            models.node("Add", ["product", "state"], ["state_out"]),
            models.node("Neg", ["state_out"], ["y"]),
        ],
        [models.constant("much", 1e6)],
    )
    imported = take(tmp_path, model).manifest.imported
    assert imported is not None
    assert imported.shared_examples == {"mode": 1}


def test_a_state_beside_others_that_are_given_is_not_taken_for_an_input(tmp_path: Path) -> None:
    with pytest.raises(
        AmbiguousStates, match=r"input c may be a state: .* --state c=cn or .*, or --input c if it is no state"
    ):
        take(tmp_path, models.lstm(), "h=hn")
    assert not (tmp_path / "repository").exists()
    step = take(tmp_path, models.lstm(), "h=hn", inputs=["c"]).manifest.graphs["step"]
    assert {tensor.name for tensor in step.inputs} == {"x", "c", "read_slots", "write_slots", "h_pool"}


@pytest.mark.parametrize("kind", ["input", "output"])
def test_text_beside_a_state_is_refused(kind: str, tmp_path: Path) -> None:
    model = models.cell()
    text = onnx.TensorProto.STRING
    if kind == "input":
        model.graph.input.append(models.value("word", ["B", 1], text))
    else:
        model.graph.node.append(models.node("Cast", ["y"], ["word"], to=text))
        model.graph.output.append(models.value("word", ["B", models.HIDDEN], text))
    with pytest.raises(ImportRefused, match=f"{kind} word: expected numbers in a model with state, got text"):
        take(tmp_path, model, "state=state_out")
    assert not (tmp_path / "repository").exists()


def test_a_size_is_found_where_only_one_works(tmp_path: Path) -> None:
    model = models.cell()
    for info in (model.graph.input[0], model.graph.input[1], model.graph.output[1]):
        info.type.tensor_type.shape.dim[1].ClearField("dim_value")
    imported = take(tmp_path, model)
    assert imported.manifest.states[0].shape == (models.HIDDEN,)
    assert imported.manifest.graphs["step"].inputs[0].shape == ("B", "x_1")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.examples == {"x_1": models.INPUT}


def test_rows_that_look_at_each_other_are_run_one_at_a_time(tmp_path: Path) -> None:
    model = models.cell()
    model.graph.node.append(models.node("ReduceMax", ["state_out"], ["most"], axes=[0], keepdims=1))
    model.graph.node.append(models.node("Sub", ["y", "most"], ["centred"]))
    model.graph.output[0].name = "centred"
    imported = take(tmp_path, model, "state=state_out")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows == 1
    assert "output centred: expected each row as it is alone" in imported.layout.notes[0]


@pytest.mark.parametrize("least", [6.0, 30.0])
def test_rows_that_look_at_each_other_where_values_are_large_are_run_one_at_a_time(
    least: float, tmp_path: Path
) -> None:
    model = models.cell()
    model.graph.node.extend(
        [
            models.node("ReduceMax", ["x"], ["loudest"], keepdims=0),
            models.node("Sub", ["loudest", "least"], ["over"]),
            models.node("Relu", ["over"], ["excess"]),
            models.node("Sub", ["y", "excess"], ["limited"]),
        ]
    )
    model.graph.initializer.append(models.constant("least", least))
    model.graph.output[0].name = "limited"
    imported = take(tmp_path, model, "state=state_out")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows == 1
    assert "output limited: expected each row as it is alone" in imported.layout.notes[0]


def watching(least: float) -> onnx.ModelProto:
    """A cell whose state all rows lose as soon as one of them hears something above `least`."""
    model = models.cell()
    model.graph.node.extend(
        [
            models.node("ReduceMax", ["x"], ["loudest"], keepdims=0),
            models.node("Less", ["loudest", "least"], ["quiet"]),
            models.node("Where", ["quiet", "y", "nothing"], ["kept"]),
        ]
    )
    model.graph.initializer.extend([models.constant("least", least), models.constant("nothing", 0.0)])
    model.graph.output[0].name = "kept"
    return model


def test_rows_that_might_meet_are_run_one_at_a_time_unless_their_owner_insists(tmp_path: Path) -> None:
    found = take(tmp_path, watching(1e9))
    assert found.manifest.imported is not None
    assert found.manifest.imported.max_rows == 1
    assert "its rows meet: ReduceMax (loudest) computes over the rows" in found.layout.notes[0]
    insisted = take(tmp_path, watching(1e9), company="insisted").manifest.imported
    assert insisted is not None
    assert insisted.max_rows is None


def test_a_batch_whose_size_is_in_its_values_is_run_one_row_at_a_time(tmp_path: Path) -> None:
    """Beside a column that is large, no comparison sees that the others are means over the batch."""
    model = models.build(
        [models.value("x", ["B", 2]), models.value("state", ["B", 2])],
        [models.value("y", ["B", 2]), models.value("state_out", ["B", 2])],
        [
            models.node("Shape", ["x"], ["shape"]),
            models.node("Gather", ["shape", "none"], ["number"]),
            models.node("Cast", ["number"], ["divisor"], to=models.FLOAT),
            models.node("Div", ["x", "divisor"], ["mean"]),
            models.node("Add", ["mean", "column"], ["y"]),
            models.node("Identity", ["state"], ["state_out"]),
        ],
        [models.constant("none", 0, np.int64), models.constant("column", [1e9, 0])],
    )
    imported = take(tmp_path, model, "state=state_out")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows == 1
    assert "its rows meet: Div (mean) computes with the number of rows" in imported.layout.notes[0]


def test_an_operator_without_a_rule_is_run_one_row_at_a_time_unless_its_owner_insists(tmp_path: Path) -> None:
    model = models.cell(opset=18)
    model.graph.node.append(models.node("CenterCropPad", ["y", "four"], ["cropped"], axes=[1]))
    model.graph.initializer.append(models.constant("four", [4], np.int64))
    model.graph.output[0].name = "cropped"
    imported = take(tmp_path, model, "state=state_out")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows == 1
    assert (
        "its rows may meet: what CenterCropPad (cropped) does with them is not known (--batched"
        in (imported.layout.notes[0])
    )
    insisted = take(tmp_path, model, "state=state_out", company="insisted").manifest.imported
    assert insisted is not None
    assert insisted.max_rows is None


def test_a_branch_that_another_value_takes_is_looked_into(tmp_path: Path) -> None:
    """At the rate that is said to work rows are as they came, at another one they are one."""
    shape: models.Shape = ["B", models.INPUT]
    one = models.node("Reshape", ["x", "one_row"], ["one"])
    branches = {
        "then_branch": onnx.helper.make_graph([one], "one", [], [onnx.ValueInfoProto(name="one")]),
        "else_branch": onnx.helper.make_graph(
            [models.node("Identity", ["x"], ["all"])], "all", [], [onnx.ValueInfoProto(name="all")]
        ),
    }
    for branch in branches.values():
        branch.output[0].type.tensor_type.elem_type = models.FLOAT
    model = models.build(
        [models.value("x", shape), models.value("state", shape), models.value("sr", [], models.INT64)],
        [models.value("y", shape), models.value("stateN", shape)],
        [
            models.node("Equal", ["sr", "rate"], ["fits"]),
            models.node("If", ["fits"], ["frames"], **branches),
            models.node("ReduceMax", ["frames"], ["loudest"], axes=[1], keepdims=1),
            models.node("Sub", ["x", "loudest"], ["y"]),
            models.node("Add", ["state", "x"], ["stateN"]),
        ],
        [models.constant("rate", 8000, np.int64), models.constant("one_row", [1, -1], np.int64)],
    )
    imported = take(tmp_path, model, "state=stateN", examples={"sr": 16000})
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows == 1
    assert "its rows meet: ReduceMax (loudest)" in imported.layout.notes[0]


def test_rows_that_do_meet_are_not_batched_whoever_insists(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"--batched: expected rows that can share a run, got others: .* as it is"):
        take(tmp_path, watching(1.0), company="insisted")
    with pytest.raises(ImportRefused, match=r"--batched: .* its batch is fixed"):
        take(tmp_path, models.cell(1), company="insisted")


def test_rows_are_run_one_at_a_time_where_their_owner_says_so(tmp_path: Path) -> None:
    alone = take(tmp_path, models.cell(), company="never")
    assert alone.manifest.imported is not None
    assert alone.manifest.imported.max_rows == 1
    assert alone.layout.notes == ("runs unbatched, one row at a time: as was asked",)


def test_a_model_that_does_not_take_large_values_is_batched_all_the_same(tmp_path: Path) -> None:
    model = models.cell()
    steps = np.random.default_rng(1).standard_normal((16, models.INPUT))
    model.graph.initializer.extend([models.constant("table", steps), models.constant("eight", 8.0)])
    model.graph.node.extend(
        [
            models.node("Add", ["x", "eight"], ["place"]),
            models.node("Cast", ["place"], ["row"], to=models.INT64),
            models.node("GatherElements", ["table", "row"], ["looked_up"]),
        ]
    )
    model.graph.output.append(models.value("looked_up", ["B", models.INPUT]))
    imported = take(tmp_path, model, "state=state_out").manifest.imported
    assert imported is not None
    assert imported.max_rows is None


def test_an_output_size_that_only_a_run_tells_has_a_name_of_its_own(tmp_path: Path) -> None:
    model = models.cell()
    model.graph.node.append(models.node("NonZero", ["y"], ["places"]))
    model.graph.output.append(models.value("places", [2, "found"], models.INT64))
    imported = take(tmp_path, model, "state=state_out")
    assert imported.manifest.imported is not None
    assert imported.manifest.imported.max_rows == 1  # how many there are depends on all rows
    shape = imported.manifest.graphs["step"].outputs[1].shape
    assert shape == ("B", 2, "places_1")


def test_a_model_that_draws_at_random_is_refused(tmp_path: Path) -> None:
    model = models.cell()
    model.graph.node.append(models.node("RandomNormalLike", ["y"], ["noise"]))
    model.graph.output[0].name = "noise"
    with pytest.raises(ImportRefused, match="two runs"):
        take(tmp_path, model, "state=state_out")


def test_text_passes(tmp_path: Path) -> None:
    model = models.build(
        [models.value("words", ["B", 2], onnx.TensorProto.STRING)],
        [models.value("same", ["B", 2], onnx.TensorProto.STRING)],
        [models.node("Identity", ["words"], ["same"])],
    )
    assert take(tmp_path, model, stateless=True).manifest.graphs["run"].inputs[0].dtype == "string"


def test_a_state_of_text_is_refused(tmp_path: Path) -> None:
    model = models.build(
        [models.value("x", ["B", 2]), models.value("state", ["B", 2], onnx.TensorProto.STRING)],
        [models.value("y", ["B", 2]), models.value("state_out", ["B", 2], onnx.TensorProto.STRING)],
        [models.node("Neg", ["x"], ["y"]), models.node("Identity", ["state"], ["state_out"])],
    )
    with pytest.raises(ImportRefused, match="expected numbers, got text"):
        take(tmp_path, model, "state=state_out")


def _answer_wrongly(nodes: dict[str, onnx.NodeProto]) -> None:
    nodes["y"].op_type = "Sub"


def _read_the_wrong_row(nodes: dict[str, onnx.NodeProto]) -> None:
    nodes["state"].input[1] = "write_slots"


def _keep_the_old_state(nodes: dict[str, onnx.NodeProto]) -> None:
    nodes["state_pool_out"].input[2] = "state"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_answer_wrongly, f"{POOLED}: y: expected"),
        (_read_the_wrong_row, f"{POOLED}: y: expected"),
        (_keep_the_old_state, f"{POOLED}: .* expected"),
    ],
)
def test_a_rewriting_that_is_wrong_is_caught(
    spoil: Callable[[dict[str, onnx.NodeProto]], None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: onnx.ModelProto, layout: Layout) -> tuple[onnx.ModelProto, GraphSpec]:
        served, graph = rewrite(model, layout)
        spoil({node.output[0]: node for node in served.graph.node})
        return served, graph

    monkeypatch.setattr(importing.pipeline, "rewrite", wrong)
    with pytest.raises(CheckFailed, match=reason):
        take(tmp_path, models.cell(), "state=state_out")
    assert not (tmp_path / "repository").exists()


def test_what_is_not_confirmed_is_not_written(tmp_path: Path) -> None:
    shown: list[Layout] = []

    def decline(layout: Layout) -> bool:
        shown.append(layout)
        return False

    with pytest.raises(ImportRefused, match="expected a yes"):
        take(tmp_path, models.lstm(), confirm=decline)
    assert [(state.input, state.output, state.axis) for state in shown[0].states] == [("h", "hn", 1), ("c", "cn", 1)]
    assert not (tmp_path / "repository").exists()


def test_outside_weights_come_along_where_they_are_allowed(tmp_path: Path) -> None:
    model = models.cell()
    onnx.save_model(
        model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    imported = import_model(
        tmp_path / "model.onnx", tmp_path / "repository", states=["state=state_out"], allow_external=True
    )
    kept = imported.folder / "original"
    assert (kept / "weights.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(onnx.load(kept / "model.onnx").graph.initializer[0]),
        onnx.numpy_helper.to_array(models.cell().graph.initializer[0]),
    )


def test_an_initial_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    option = StateOption("state", "state_out", None, np.zeros((2, 3), np.float32))
    with pytest.raises(ImportRefused, match=r"expected an initial value of shape \[4\], got \[2, 3\]"):
        take(tmp_path, models.cell(), option)


@pytest.mark.parametrize("initial", [0.5, np.array([1.5]), np.array([2.0**70]), np.array(["a"])])
def test_an_initial_state_that_its_type_does_not_have_is_refused(initial: float, tmp_path: Path) -> None:
    states = {"front": "front_out", "back": "back_out", "ever": "ever_out", "half": "half_out"}
    others = [StateOption(given, returned) for given, returned in states.items()]
    model = models.mixed()
    with pytest.raises(ImportRefused, match=r"state count: expected an initial value of (type int64|shape \[\])"):
        take(tmp_path, model, StateOption("count", "count_out", None, initial), *others)


@pytest.mark.parametrize("initial", [np.full(2, 0.5), np.full(2, 0x3F00, np.uint16)])
def test_a_bfloat16_state_starts_from_numbers_or_bits(initial: npt.NDArray[Any], tmp_path: Path) -> None:
    shape: models.Shape = ["B", 2]
    model = models.build(
        [models.value(name, shape, onnx.TensorProto.BFLOAT16) for name in ("x", "state")],
        [models.value(name, shape, onnx.TensorProto.BFLOAT16) for name in ("y", "state_out")],
        [models.node("Identity", ["state"], ["y"]), models.node("Identity", ["x"], ["state_out"])],
    )
    folder = take(tmp_path, model, StateOption("state", "state_out", None, initial)).folder
    with np.load(folder / "initial_states.npz") as arrays:
        assert arrays["state"].tolist() == [0x3F00, 0x3F00]  # 0.5


def test_floats_of_another_width_are_rounded(tmp_path: Path) -> None:
    option = StateOption("state", "state_out", None, np.full(models.HIDDEN, 0.1))
    folder = take(tmp_path, models.cell(), option).folder
    with np.load(folder / "initial_states.npz") as arrays:
        np.testing.assert_array_equal(arrays["state"], np.full(models.HIDDEN, 0.1, np.float32))


@pytest.mark.parametrize(
    ("file", "name"), [("Silero VAD (v5).onnx", "silero-vad-v5"), ("model.onnx", "model"), ("_x.tar.onnx", "x.tar")]
)
def test_a_model_is_called_after_its_file(file: str, name: str) -> None:
    assert default_name(Path(file)) == name


def test_a_file_whose_name_has_no_letters_needs_a_name() -> None:
    with pytest.raises(ImportRefused, match="--name"):
        default_name(Path("模型.onnx"))
