"""What a step costs besides the arithmetic: which bytes move, what is allocated, what is bound."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from service.runtime.device import resident
from service.runtime.device.layout import bucket
from service.runtime.errors import RunnerError
from service.runtime.providers import CPU
from service.runtime.runner import Runner, RunnerConfig
from tests.service import tensor_models as tensors
from tests.service import tiny_models as tiny
from tests.service.runtime.device.far import Far

CONFIG = RunnerConfig("cpu", 1, 40, 64, cuda_graphs=False)
TABLE = tiny.make_table()
TOP = ("top_log_probs", "top_tokens")


def step_feeds(tokens: list[int], read: list[int], write: list[int]) -> dict[str, npt.NDArray[np.int64]]:
    feeds = {"tokens": tokens, "read_slots": read, "write_slots": write}
    return {name: np.array(values, dtype=np.int64) for name, values in feeds.items()}


def batch(rows: int, token: int = 4) -> dict[str, npt.NDArray[np.int64]]:
    return step_feeds([token] * rows, [0] * rows, list(range(2, 2 + rows)))


def open_language_model(folder: Path, far: Far) -> Runner:
    return far.open(folder, tiny.write_language_model(folder, TABLE), CONFIG)


def test_a_step_is_one_copy_there_and_one_back_of_tokens_and_results_alone(tmp_path: Path) -> None:
    far = Far()
    manifest = tiny.write_language_model(tmp_path, tiny.make_table(vocabulary=500))
    runner = far.open(tmp_path, manifest, CONFIG)
    for outputs, largest in (((), 0), (TOP, 8 * tiny.TOP_K), (("log_probs",), 4 * 500)):
        runner.run("step", batch(3), outputs)
        far.memory.forget()
        runner.run("step", batch(3), outputs)
        [[upload]] = far.memory.uploads
        assert upload.num_bytes == 2 * 256 + 4 * 8  # three aligned vectors of four rows, the last without a gap behind
        assert len(far.memory.downloads) == (1 if outputs else 0)
        for [download] in far.memory.downloads:
            assert 4 * largest <= download.num_bytes <= 4 * largest + 256


def test_addresses_stay_and_nothing_is_allocated_or_bound_once_sizes_were_seen(tmp_path: Path) -> None:
    far = Far()
    runner = open_language_model(tmp_path, far)
    for rows in range(16, 0, -1):  # the largest first: later ones lie in its buffers
        runner.run("step", batch(rows), TOP)
    session = far.step()
    num_blocks, seen = len(far.memory.blocks), {id(binding) for _, binding in session.runs}
    session.runs.clear()
    rng = np.random.default_rng(0)
    sizes = [int(rows) for rows in rng.integers(1, 17, 200)]
    for rows in sizes:
        runner.run("step", batch(rows), TOP)
    assert len(far.memory.blocks) == num_blocks
    by_size: dict[int, dict[str, int]] = {}
    for rows, (_, binding) in zip(sizes, session.runs, strict=True):
        assert id(binding) in seen
        assert by_size.setdefault(bucket(rows), binding.addresses) == binding.addresses
        assert binding.addresses["hash_pool"] == binding.addresses["hash_pool_out"]
    assert set(by_size) == {1, 2, 4, 8, 16}
    assert len({addresses["hash_pool"] for addresses in by_size.values()}) == 1


def test_steps_keep_no_memory(tmp_path: Path) -> None:
    far = Far()
    runner = open_language_model(tmp_path, far)
    feeds = [batch(rows) for rows in (1, 3, 8)]

    def steps(count: int) -> None:
        for _ in range(count):
            for inputs in feeds:
                runner.run("step", inputs, TOP)
            far.memory.forget()
            far.step().runs.clear()

    steps(3)
    tracemalloc.start()
    try:
        steps(3)
        before, _ = tracemalloc.get_traced_memory()
        steps(100)
        after, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000
    assert most - before < 20_000  # at a time: keys, views of nothing


def test_results_of_a_larger_batch_do_not_lie_in_what_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.runtime.device.staging._LEAST", 1)
    far = Far()
    runner = open_language_model(tmp_path, far)
    kept = {rows: runner.run("step", batch(rows, 5), ("log_probs",))["log_probs"] for rows in (1, 38)}
    for _ in range(2):
        for rows in (1, 38):
            got = runner.run("step", batch(rows, 5), ("log_probs",))["log_probs"]
            np.testing.assert_array_equal(got, TABLE[[tiny.next_hash(0, 5)] * rows])
            assert got.shape == kept[rows].shape


def test_padding_leaves_its_state_in_scratch_alone(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path, Far())
    runner.run("step", step_feeds([4, 5, 6], [0, 0, 0], [7, 3, 9]), ())
    pool = runner.read_pool("hash_pool")[:, 0]
    expected = np.zeros(CONFIG.num_slots)
    expected[[7, 3, 9, 1]] = [tiny.next_hash(0, token) for token in (4, 5, 6, 4)]
    np.testing.assert_array_equal(pool, expected)


def test_lanes_share_no_buffers(tmp_path: Path) -> None:
    runner = open_language_model(tmp_path, Far())
    first = runner.run("step", step_feeds([4, 5], [0, 0], [2, 3]), TOP, 0)["top_log_probs"]
    copy = first.copy()
    second = runner.run("step", step_feeds([6, 6], [0, 0], [4, 5]), TOP, 1)["top_log_probs"]
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, copy)
    assert (second != first).any()


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_MOST_BOUND", 2)
    monkeypatch.setattr(resident, "_MOST_FILLED", 3)
    far = Far()
    runner = open_language_model(tmp_path, far)
    step = runner._graphs["step"].resident  # type: ignore[union-attr]
    assert step is not None
    for rows in (1, 2, 3, 5, 9, 17, 1, 2, 3, 5, 9, 17):
        got = runner.run("step", batch(rows), TOP)["top_tokens"]
        np.testing.assert_array_equal(got[:, 0], [TABLE[tiny.next_hash(0, 4)].argmax()] * rows)
        assert len(step._bound[0]) <= 2 and len(step._filled[0]) <= 3


def test_batches_that_are_too_large_go_the_plain_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = Far()
    runner = open_language_model(tmp_path, far)
    monkeypatch.setattr(resident, "_MOST_BYTES", 1000)
    for rows, uploads in ((2, 1), (30, 0), (2, 1), (30, 0)):
        far.memory.forget()
        got = runner.run("step", batch(rows), TOP)["top_tokens"]
        np.testing.assert_array_equal(got[:, 0], [TABLE[tiny.next_hash(0, 4)].argmax()] * rows)
        assert len(far.memory.uploads) == uploads


def test_inputs_that_the_runtime_wants_on_the_host_are_read_there_anew(tmp_path: Path) -> None:
    far = Far()
    far.host_inputs = {"scale"}
    runner = far.open(tmp_path, tensors.write_accumulator(tmp_path), CONFIG)
    total = tensors.INITIAL_TOTAL
    for turn, scale in enumerate((1, 10, 3)):
        inputs: dict[str, Any] = {
            "values": np.array([[turn, 1]], np.float32),
            "scale": np.array(scale, np.float32),
            "read_slots": np.array([2 if turn else 0]),
            "write_slots": np.array([2]),
        }
        total += scale * (turn + 1)
        assert runner.run("step", inputs, ("total",))["total"].tolist() == [[total]]
    assert runner.run("step", inputs, ("total", "count"))["count"].tolist() == [4]


@pytest.mark.parametrize(("max_rows", "padded"), [(None, 4), (3, 3)])
@pytest.mark.parametrize("later", [False, True])
def test_only_rows_that_are_known_not_to_meet_are_padded(
    tmp_path: Path, max_rows: int | None, padded: int, later: bool
) -> None:
    manifest = tensors.write_lookup(tmp_path)
    assert manifest.imported is not None
    imported = manifest.imported.model_copy(update={"max_rows": max_rows})
    bounded = manifest.model_copy(update={"imported": imported})
    far = Far()
    runner = far.open(tmp_path, manifest if later else bounded, CONFIG)
    slots = np.array([2, 3, 4])
    if later:  # it has been measured
        inputs = {"index": np.array([0, 0, 0]), "read_slots": 0 * slots, "write_slots": slots}
        runner.run("step", inputs, ("total",))
        runner.manifest = bounded
    far.memory.forget()
    inputs = {"index": np.array([5, 6, 7]), "read_slots": slots, "write_slots": slots}
    assert runner.run("step", inputs, ("total",))["total"].tolist() == [[5], [6], [7]]
    [[upload]] = far.memory.uploads
    assert upload.num_bytes == 2 * 256 + padded * 8


GOOD = batch(1)


@pytest.mark.parametrize(
    ("feeds", "outputs", "message"),
    [
        ({"tokens": GOOD["tokens"], "read_slots": GOOD["read_slots"]}, (), "expected write_slots, got"),
        (GOOD | {"words": GOOD["tokens"]}, (), r"got also \['words'\]"),
        (GOOD | {"tokens": np.array([4, 5])}, (), "B = 1, got|B = 2, got"),
        (GOOD | {"tokens": np.array([4.0], dtype=np.float32)}, (), "got float32"),
        (GOOD, ("logits",), r"got \['logits'\]"),
        (GOOD, ("hash_pool_out",), r"got \['hash_pool_out'\]"),
    ],
)
@pytest.mark.parametrize("ran", [False, True])
def test_a_run_asked_for_wrongly_is_refused_and_changes_nothing(
    tmp_path: Path, feeds: dict[str, npt.NDArray[Any]], outputs: tuple[str, ...], message: str, ran: bool
) -> None:
    runner = open_language_model(tmp_path, Far())
    if ran:
        runner.run("step", GOOD, ())
    before = runner.read_pool("hash_pool")
    with pytest.raises(RunnerError, match=message):
        runner.run("step", feeds, outputs)
    np.testing.assert_array_equal(runner.read_pool("hash_pool"), before)


def test_a_closed_runner_lets_go_of_the_device(tmp_path: Path) -> None:
    far = Far()
    runner = open_language_model(tmp_path, far)
    assert runner.memory_report() == {
        "pools": 40 * 4, "inputs and outputs": 2**17, "page-locked host memory": 2**16, "captured runs": 0,
    }  # fmt: skip
    runner.close()
    assert runner.memory_report() == {}
    assert Runner(tmp_path, runner.manifest, CONFIG, CPU).memory_report() == {}
