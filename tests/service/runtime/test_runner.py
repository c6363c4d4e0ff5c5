"""The runner against plain arithmetic on the tiny models, and against graphs that break its rules."""

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from export.manifest import StateSpec, TensorSpec
from service.runtime.errors import RunnerError
from service.runtime.opening import open_runner
from service.runtime.runner import Runner, RunnerConfig
from tests.service import tiny_models as tiny

CONFIG = RunnerConfig(provider="cpu", num_slots=16, num_memory_rows=32)
TABLE = tiny.make_table()


def ints(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def open_language_model(folder: Path) -> Runner:
    return open_runner(folder, tiny.write_language_model(folder, TABLE), CONFIG)


def step_feeds(tokens: list[int], read: list[int], write: list[int]) -> dict[str, npt.NDArray[np.int64]]:
    return {"tokens": ints(*tokens), "read_slots": ints(*read), "write_slots": ints(*write)}


def test_a_step_reads_and_writes_the_rows_it_is_told(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path)
    first = runner.run("step", step_feeds([4, 5], [0, 0], [2, 3]), ("log_probs",))
    states = [tiny.next_hash(0, 4), tiny.next_hash(0, 5)]
    np.testing.assert_array_equal(first["log_probs"], TABLE[states])
    # Crossed: each row continues the other's state.
    second = runner.run("step", step_feeds([6, 1], [3, 2], [2, 3]), ("top_tokens", "top_log_probs"))
    states = [tiny.next_hash(states[1], 6), tiny.next_hash(states[0], 1)]
    np.testing.assert_array_equal(second["top_log_probs"], -np.sort(-TABLE[states])[:, : tiny.TOP_K])
    assert second.keys() == {"top_tokens", "top_log_probs"}
    pool = runner.read_pool("hash_pool")
    assert pool[2:4, 0].tolist() == states
    assert not pool[:2].any() and not pool[4:].any()


def test_outputs_of_one_run_survive_the_next(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path)
    kept = runner.run("step", step_feeds([4], [0], [2]), ("top_log_probs",))["top_log_probs"]
    copy = kept.copy()
    for rows in (1, 3, 1):
        runner.run("step", step_feeds([5] * rows, [0] * rows, [2] * rows), ("top_log_probs",))
    np.testing.assert_array_equal(kept, copy)


def test_batches_of_one_shape_are_right_however_often_they_run(tmp_path: Path) -> None:
    """From the second on, what is bound already is filled in: nothing of the batch before may stay."""
    runner = open_language_model(tmp_path)
    states = {2: 0, 3: 0}
    rng = np.random.default_rng(0)
    for turn in range(20):
        rows = [2, 3] if turn % 3 else [3, 2]
        tokens = rng.integers(4, 7, size=2).tolist()
        for row, token in zip(rows, tokens, strict=True):
            states[row] = tiny.next_hash(states[row], token)
        got = runner.run("step", step_feeds(tokens, rows if turn else [0, 0], rows), ("top_tokens", "top_log_probs"))
        best = np.argsort(-TABLE[[states[row] for row in rows]], kind="stable")[:, : tiny.TOP_K]
        np.testing.assert_array_equal(got["top_tokens"], best)
        np.testing.assert_array_equal(runner.read_pool("hash_pool")[[2, 3], 0], [states[2], states[3]])


def test_lanes_share_no_buffers(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path)
    outputs = ("top_log_probs",)
    for lane in (0, 1):
        for _ in range(3):
            runner.run("step", step_feeds([4, 5], [0, 0], [2, 3]), outputs, lane)
    first = runner.run("step", step_feeds([4, 5], [0, 0], [2, 3]), outputs, 0)["top_log_probs"]
    copy = first.copy()
    second = runner.run("step", step_feeds([6, 6], [0, 0], [4, 5]), outputs, 1)["top_log_probs"]
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, copy)
    assert (second != first).any()
    wide, other = (runner.run("step", step_feeds([4], [0], [2]), ("log_probs",), lane) for lane in (0, 1))
    assert not np.shares_memory(wide["log_probs"], other["log_probs"])


def test_threads_in_lanes_of_their_own_get_the_answers_to_their_own_questions(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path)
    wrong: list[object] = []

    def work(lane: int) -> None:
        row, state = 2 + lane, 0
        for turn in range(300):
            token = 4 + (turn + lane) % 3
            state = tiny.next_hash(state, token)
            got = runner.run("step", step_feeds([token], [row if turn else 0], [row]), ("top_log_probs",), lane)
            if got["top_log_probs"][0].tolist() != (-np.sort(-TABLE[state])[: tiny.TOP_K]).tolist():
                wrong.append((lane, turn))

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_inputs_of_another_type_are_refused_even_after_a_batch_of_their_shape(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path)
    for _ in range(2):
        runner.run("step", GOOD, ())
    with pytest.raises(RunnerError, match="got float32"):
        runner.run("step", GOOD | {"tokens": np.array([4.0], dtype=np.float32)}, ())
    with pytest.raises(RunnerError, match="expected write_slots"):
        runner.run("step", {"tokens": ints(4), "read_slots": ints(0)}, ())


def test_more_shapes_than_are_kept_bound_run_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.prepared._MOST", 2)
    runner = open_language_model(tmp_path)
    for rows in (1, 2, 3, 1, 2, 3, 1, 1):
        tokens = [4 + row % 3 for row in range(rows)]
        got = runner.run("step", step_feeds(tokens, [0] * rows, list(range(2, 2 + rows))), ("top_tokens",))
        states = [tiny.next_hash(0, token) for token in tokens]
        np.testing.assert_array_equal(got["top_tokens"][:, 0], TABLE[states].argmax(axis=1))


def test_rows_are_read_and_written_where_they_lie(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path)
    runner.write_rows([5, 3], {"hash": np.array([[50], [30]], dtype=np.float32)})
    assert runner.read_pool("hash_pool")[[3, 5], 0].tolist() == [30, 50]
    got = runner.read_rows([5, 0, 3])["hash"]
    assert got.tolist() == [[50], [0], [30]]
    got[:] = 9  # a copy
    runner.run("step", step_feeds([4], [5], [5]), ())
    assert runner.read_rows([5])["hash"].tolist() == [[tiny.next_hash(50, 4)]]


def test_whole_rows_of_log_probabilities_share_one_buffer_that_grows(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path)
    largest = runner.run("step", step_feeds([4, 5, 6], [0] * 3, [2, 3, 4]), ("log_probs",))["log_probs"]
    for tokens in ([6], [5, 4]):
        got = runner.run("step", step_feeds(tokens, [0] * len(tokens), [2, 3][: len(tokens)]), ("log_probs",))
        np.testing.assert_array_equal(got["log_probs"], TABLE[[tiny.next_hash(0, token) for token in tokens]])
        assert np.shares_memory(got["log_probs"], largest)
    tokens = [4, 5, 6, 4, 5]
    got = runner.run("step", step_feeds(tokens, [0] * 5, [2, 3, 4, 5, 6]), ("log_probs",))
    np.testing.assert_array_equal(got["log_probs"], TABLE[[tiny.next_hash(0, token) for token in tokens]])


def test_encode_writes_memory_and_state_and_a_step_reads_both(tmp_path: Path) -> None:
    runner = open_runner(tmp_path, tiny.write_encoder_decoder(tmp_path, TABLE), CONFIG)
    source = np.array([[4, 5, 6], [6, 0, 0]])
    rows = np.array([[8, 9, 10], [16, 1, 1]])
    feeds = {"source": source, "lengths": ints(3, 1), "source_rows": rows, "write_slots": ints(2, 3)}
    assert runner.run("encode", feeds, ()) == {}
    memory = runner.read_pool("memory_pool")
    assert memory[[8, 9, 10, 16], 0].tolist() == [4, 5, 6, 6]
    assert not memory[0].any()
    assert runner.read_pool("hash_pool")[2:4, 0].tolist() == [15, 6]
    step = step_feeds([2, 2], [2, 3], [2, 3])
    step |= {"source_rows": np.array([[8, 9, 10], [16, 0, 0]]), "source_lengths": ints(3, 1)}
    top = runner.run("step", step, ("top_log_probs",))["top_log_probs"]
    states = [tiny.next_hash(15, 2, 15), tiny.next_hash(6, 2, 6)]
    np.testing.assert_array_equal(top, -np.sort(-TABLE[states])[:, : tiny.TOP_K])


def test_sequences_start_from_zeros_unless_told(tmp_path: Path) -> None:
    runner = open_runner(tmp_path, tiny.write_tagger(tmp_path, TABLE), CONFIG)
    feeds: dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float32]] = {
        "words": np.array([[1, 2]]),
        "characters": np.array([[[3], [4]]]),
        "lengths": ints(2),
    }
    got = runner.run("sequence", feeds, ("emissions", "final_hash"))
    np.testing.assert_array_equal(got["emissions"][0], TABLE[[1 + 3, 3 + 4]])
    feeds["initial_hash"] = np.array([[10]], dtype=np.float32)
    got = runner.run("sequence", feeds, ("final_hash",))
    assert got["final_hash"].tolist() == [[13]]


def test_state_bytes_count_what_one_slot_keeps(tmp_path: Path) -> None:
    assert open_language_model(tmp_path).state_bytes == 4
    (tmp_path / "tagger").mkdir()
    tagger = open_runner(tmp_path / "tagger", tiny.write_tagger(tmp_path / "tagger", TABLE), CONFIG)
    assert tagger.state_bytes == 0  # it has no pool


GOOD = step_feeds([4], [0], [2])


@pytest.mark.parametrize(
    ("feeds", "outputs", "message"),
    [
        ({"tokens": ints(4), "read_slots": ints(0)}, (), "expected write_slots, got"),
        (GOOD | {"words": ints(4)}, (), r"got also \['words'\]"),
        (GOOD | {"tokens": ints(4, 5)}, (), "B = 2, got"),
        (GOOD | {"tokens": np.array([[4]])}, (), r"int64 \('B',\), got int64 \(1, 1\)"),
        (GOOD | {"tokens": np.array([4.0], dtype=np.float32)}, (), "got float32"),
        (GOOD, ("logits",), r"got \['logits'\]"),
        (GOOD, ("hash_pool_out",), r"got \['hash_pool_out'\]"),
    ],
)
def test_a_run_asked_for_wrongly_is_refused_and_changes_nothing(
    tmp_path: Path, feeds: dict[str, npt.NDArray[np.int64]], outputs: tuple[str, ...], message: str
) -> None:
    runner = open_language_model(tmp_path)
    with pytest.raises(RunnerError, match=message):
        runner.run("step", feeds, outputs)
    assert not runner.read_pool("hash_pool").any()
    assert runner.run("step", GOOD, ("log_probs",))["log_probs"].shape == (1, tiny.VOCABULARY)


def edit_step(
    folder: Path, output: str, *nodes: onnx.NodeProto, **constants: npt.NDArray[np.float32]
) -> onnx.ModelProto:
    """Let the scatter write `output` instead of the pool, and add nodes; gives the model to change further."""
    model = onnx.load(folder / "step.onnx")
    [scatter] = [node for node in model.graph.node if node.op_type == "ScatterND"]
    scatter.output[:] = [output]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def test_a_graph_that_changes_another_row_is_refused(tmp_path: Path) -> None:
    manifest = tiny.write_language_model(tmp_path, TABLE)
    add = helper.make_node("Add", ["updated", "half"], ["hash_pool_out"])
    onnx.save(edit_step(tmp_path, "updated", add, half=np.full(1, 0.5, dtype=np.float32)), tmp_path / "step.onnx")
    with pytest.raises(RunnerError, match=r"graph step on CPU.*: hash_pool: expected only rows \[2, 3, 4\] to change"):
        open_runner(tmp_path, manifest, CONFIG)


@pytest.mark.parametrize(("of_the_sum", "message"), [("state", "got a difference of nan"), ("row", "got .*indice")])
def test_a_graph_that_looks_at_rows_that_it_is_not_told_to_is_refused(
    tmp_path: Path, of_the_sum: str, message: str
) -> None:
    """What it takes from there is nothing as long as they hold numbers: only poison shows it."""
    manifest = tiny.write_language_model(tmp_path, TABLE)
    model = onnx.load(tmp_path / "step.onnx")
    [scatter] = [node for node in model.graph.node if node.op_type == "ScatterND"]
    sum_up = helper.make_node("ReduceSum", ["hash_pool"], ["sum"], keepdims=0)
    nothing = helper.make_node("Mul", ["sum", "zero"], ["nothing"])
    if of_the_sum == "state":
        use = [helper.make_node("Add", [scatter.input[2], "nothing"], ["new"])]
    else:
        use = [
            helper.make_node("Cast", ["nothing"], ["late"], to=onnx.TensorProto.INT64),
            helper.make_node("Add", [scatter.input[1], "late"], ["rows"]),
        ]
    index = list(model.graph.node).index(scatter)
    scatter.input[2 if of_the_sum == "state" else 1] = use[-1].output[0]
    for node in reversed([sum_up, nothing, *use]):
        model.graph.node.insert(index, node)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype=np.float32), "zero"))
    onnx.save(model, tmp_path / "step.onnx")
    with pytest.raises(RunnerError, match=message):
        open_runner(tmp_path, manifest, CONFIG)


def test_a_graph_that_does_not_write_is_refused(tmp_path: Path) -> None:
    manifest = tiny.write_language_model(tmp_path, TABLE)
    same = helper.make_node("Identity", ["hash_pool"], ["hash_pool_out"])
    onnx.save(edit_step(tmp_path, "lost", same), tmp_path / "step.onnx")
    with pytest.raises(RunnerError, match="expected the graph to change rows"):
        open_runner(tmp_path, manifest, CONFIG)


def test_a_graph_that_reads_a_pool_after_writing_it_is_refused(tmp_path: Path) -> None:
    """Right on copies, wrong in place: nothing in the file is at fault, so only the proof on real buffers can tell."""
    manifest = tiny.write_language_model(tmp_path, TABLE)
    model = edit_step(
        tmp_path,
        "hash_pool_out",
        helper.make_node("Gather", ["hash_pool_out", "write_slots"], ["written"]),
        helper.make_node("ReduceSum", ["written"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["late"], to=onnx.TensorProto.INT64),
        helper.make_node("Add", ["read_slots", "late"], ["rows"]),
        helper.make_node("Gather", ["hash_pool", "rows"], ["old"]),
        zero=np.zeros(1, dtype=np.float32),
    )
    [scatter] = [node for node in model.graph.node if node.op_type == "ScatterND"]
    model.graph.node.append(helper.make_node("ScatterND", ["last_pool", scatter.input[1], "old"], ["last_pool_out"]))
    shape = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", 1])
    model.graph.input.append(helper.make_value_info("last_pool", shape))
    model.graph.output.append(helper.make_value_info("last_pool_out", shape))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "step.onnx")
    spec = manifest.graphs["step"]
    pool = TensorSpec(name="last_pool", dtype="float32", shape=("N", 1))
    out = TensorSpec(name="last_pool_out", dtype="float32", shape=("N", 1))
    step = spec.model_copy(update={"inputs": (*spec.inputs, pool), "outputs": (*spec.outputs, out)})
    last = StateSpec(name="last", dtype="float32", shape=(1,), pool_input="last_pool", pool_output="last_pool_out")
    manifest = manifest.model_copy(update={"graphs": {"step": step}, "states": (tiny.STATE, last)})
    with pytest.raises(RunnerError, match="last_pool: expected in place the same as on a copy, got a difference"):
        open_runner(tmp_path, manifest, CONFIG)


def test_a_graph_whose_names_are_not_the_manifests_is_refused(tmp_path: Path) -> None:
    manifest = tiny.write_language_model(tmp_path, TABLE)
    spec = manifest.graphs["step"]
    broken = spec.model_copy(update={"inputs": spec.inputs[1:]})
    with pytest.raises(RunnerError, match=r"step.onnx: inputs: expected .* as in the manifest, got .*'tokens'"):
        open_runner(tmp_path, manifest.model_copy(update={"graphs": {"step": broken}}), CONFIG)


@pytest.mark.parametrize(
    "config", [{"threads": -1}, {"num_slots": 2}, {"num_memory_rows": 15}, {"device_id": -1}, {"max_rows": -1}]
)
def test_impossible_configs_are_refused(config: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(config))}: expected at least"):
        RunnerConfig(**config)  # type: ignore[arg-type]
