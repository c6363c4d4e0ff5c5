"""What is written, loaded by the reference server's rules and stepped as it steps, beside the bundle itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.bundle import load_manifest
from export.pipeline import export_run
from export.triton.errors import TritonError
from export.triton.repository import write_repository
from importing.pipeline import import_model
from service.runtime.opening import open_runner
from service.runtime.runner import Runner, RunnerConfig
from tests.export.runs import train
from tests.export.triton.reference_server import ReferenceServer
from tests.importing.small_models import cell, honest, model, tensor, weight

pytestmark = pytest.mark.slow
Array = npt.NDArray[Any]
STEPS = 5


def imported(folder: Path, source: onnx.ModelProto, *states: str) -> Path:
    path = folder / "small.onnx"
    path.write_bytes(source.SerializeToString())
    shared = {info.name for info in source.graph.input} & {"scale"}
    return import_model(path, folder / "repository", states=states, examples=dict.fromkeys(shared, 2)).folder


def batch_second() -> onnx.ModelProto:
    """The honest model with its state as (1, B, 4)."""
    nodes = [
        helper.make_node("Squeeze", ["state", "zero"], ["flat"]),
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "flat"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["y"]),
        helper.make_node("Unsqueeze", ["y", "zero"], ["state_out"]),
    ]
    zero = numpy_helper.from_array(np.zeros(1, np.int64), "zero")
    return model(
        nodes,
        [weight(), zero],
        inputs=[tensor("x"), tensor("state", (1, "B", 4))],
        outputs=[tensor("y"), tensor("state_out", (1, "B", 4))],
    )


def counter() -> onnx.ModelProto:
    """A state that is one number a row."""
    nodes = [
        helper.make_node("Add", ["count", "one"], ["count_out"]),
        helper.make_node("Cast", ["count_out"], ["float_count"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float_count", "axis"], ["column"]),
        helper.make_node("Add", ["x", "column"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.ones(1, np.int64), "one"),
        numpy_helper.from_array(np.ones(1, np.int64), "axis"),
    ]
    whole = TensorProto.INT64
    return model(
        nodes,
        constants,
        inputs=[tensor("x"), tensor("count", ("B",), whole)],
        outputs=[tensor("y"), tensor("count_out", ("B",), whole)],
    )


def scaled() -> onnx.ModelProto:
    """The honest model with a number that all rows share."""
    nodes = [*cell()[:-1], helper.make_node("Mul", ["state_out", "scale"], ["y"])]
    return model(nodes, [weight()], inputs=[tensor("x"), tensor("state"), tensor("scale", ())])


def fixed() -> onnx.ModelProto:
    return model(
        cell(),
        [weight()],
        inputs=[tensor("x", (1, 4)), tensor("state", (1, 4))],
        outputs=[tensor("y", (1, 4)), tensor("state_out", (1, 4))],
    )


MODELS: dict[str, tuple[onnx.ModelProto, tuple[str, ...], int]] = {
    "rows first": (honest(), ("state=state_out",), 64),
    "rows second": (batch_second(), ("state=state_out,axis=1",), 64),
    "one number": (counter(), ("count=count_out",), 64),
    "a start that is not zero": (honest(), ("state=state_out,init=0.75",), 64),
    "a shared input": (scaled(), ("state=state_out",), 0),
    "a fixed batch": (fixed(), ("state=state_out",), 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_imported_model_steps_there_as_it_does_here(name: str, tmp_path: Path) -> None:
    source, states, max_batch_size = MODELS[name]
    bundle = imported(tmp_path, source, *states)
    written = write_repository(bundle, tmp_path / "other")
    server = ReferenceServer(written.folder)
    assert server.max_batch_size == max_batch_size
    shared: dict[str, Array] = {"scale": np.array(1.5, np.float32)} if name == "a shared input" else {}
    draw = np.random.default_rng(1)
    with here(bundle) as runner:
        for step in range(STEPS):
            x = draw.standard_normal((3, 4)).astype(np.float32)
            slots = np.arange(2, 5)
            read = np.zeros(3, np.int64) if step == 0 else slots
            expected = np.concatenate(
                [
                    runner.run(
                        "step",
                        {"x": x[[row]], **shared, "read_slots": read[[row]], "write_slots": slots[[row]]},
                        ["y"],
                    )["y"].copy()
                    for row in range(3)
                ]
            )
            groups = [[0, 1, 2]] if max_batch_size else [[0], [1], [2]]
            got = np.concatenate(
                [server.infer(group, {"x": x[group], **shared}, start=step == 0)["y"] for group in groups]
            )
            np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)


def test_the_untouched_original_is_written_where_it_runs_one_row_at_a_time(tmp_path: Path) -> None:
    bundle = imported(tmp_path, fixed(), "state=state_out")
    written = write_repository(bundle, tmp_path / "other")
    assert onnx.load(written.folder / "1" / "model.onnx") == fixed()
    assert any("not batched" in note for note in written.notes)


@contextmanager
def here(bundle: Path) -> Iterator[Runner]:
    """A bundle opened as the service does."""
    runner = open_runner(bundle, load_manifest(bundle), RunnerConfig(num_slots=8))
    yield runner
    runner.close()


def test_a_language_model_steps_there_as_it_does_here(tmp_path: Path) -> None:
    run = train(tmp_path / "data", "language_model", "gru")
    bundle = export_run(run, tmp_path / "repository").folder
    server = ReferenceServer(write_repository(bundle, tmp_path / "other").folder)
    assert {tensor["name"] for tensor in server.config["output"]} == {"log_probs", "top_log_probs", "top_tokens"}
    with here(bundle) as runner:
        slots = np.arange(2, 5)
        for step, tokens in enumerate(np.array([[2, 4, 5], [4, 5, 6], [5, 6, 4]])):
            inputs = {"tokens": tokens, "read_slots": slots if step else np.zeros(3, np.int64), "write_slots": slots}
            expected = runner.run("step", inputs, ["log_probs", "top_tokens"])
            got = server.infer([7, 8, 9], {"tokens": tokens}, start=step == 0)
            np.testing.assert_array_equal(got["log_probs"], expected["log_probs"])
            np.testing.assert_array_equal(got["top_tokens"], expected["top_tokens"])


def test_a_tagger_of_whole_sentences_becomes_a_model_without_state(tmp_path: Path) -> None:
    run = train(tmp_path / "data", "tagger", crf=True)
    bundle = export_run(run, tmp_path / "repository").folder
    written = write_repository(bundle, tmp_path / "other")
    assert any("search" in note for note in written.notes)
    server = ReferenceServer(written.folder)
    assert "sequence_batching" not in server.config
    inputs = {
        "words": np.array([[1, 4, 5], [5, 1, 0]]),
        "characters": np.array([[[1, 2], [2, 0], [3, 0]], [[1, 1], [3, 0], [0, 0]]]),
        "word_lengths": np.array([[2, 1, 1], [2, 1, 1]]),
        "lengths": np.array([3, 2]),
    }
    got = server.infer([0, 1], inputs)
    with here(bundle) as runner:
        expected = runner.run("sequence", inputs, ["emissions"])
    np.testing.assert_array_equal(got["emissions"], expected["emissions"])


def test_versions_lie_beside_each_other_and_are_not_overwritten(tmp_path: Path) -> None:
    first = imported(tmp_path, honest(), "state=state_out")
    second = imported(tmp_path, honest(), "state=state_out")
    other = tmp_path / "other"
    write_repository(first, other)
    write_repository(second, other)
    assert sorted(path.name for path in (other / "small").iterdir()) == ["1", "2", "config.pbtxt"]
    with pytest.raises(TritonError, match="expected no version 2, got one"):
        write_repository(second, other)
    third = imported(tmp_path, honest(), "state=state_out,init=1")
    with pytest.raises(TritonError, match="another directory"):
        write_repository(third, other)
    assert sorted(path.name for path in other.iterdir()) == ["small"]
    assert sorted(path.name for path in (other / "small").iterdir()) == ["1", "2", "config.pbtxt"]
