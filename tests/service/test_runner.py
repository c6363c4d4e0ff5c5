"""The runner against plain arithmetic on the tiny models."""

from pathlib import Path

import numpy as np

from service.runner import Runner, RunnerConfig, open_runner
from tests.service import tiny_models as tiny

CONFIG = RunnerConfig(provider="cpu", num_slots=16, num_memory_rows=32)


def ints(*values: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def open_language_model(folder: Path) -> Runner:
    return open_runner(folder, tiny.write_language_model(folder, tiny.make_table()), CONFIG)


def test_a_step_reads_and_writes_the_rows_it_is_told(tmp_path: Path) -> None:
    table = tiny.make_table()
    runner = open_language_model(tmp_path)
    feeds = {"tokens": ints(4, 5), "read_slots": ints(0, 0), "write_slots": ints(2, 3)}
    first = runner.run("step", feeds, ("log_probs",))
    states = [tiny.next_hash(0, 4), tiny.next_hash(0, 5)]
    np.testing.assert_array_equal(first["log_probs"], table[states])
    # Crossed: each row continues the other's state.
    crossed = {"tokens": ints(6, 1), "read_slots": ints(3, 2), "write_slots": ints(2, 3)}
    second = runner.run("step", crossed, ("top_tokens", "top_log_probs"))
    states = [tiny.next_hash(states[1], 6), tiny.next_hash(states[0], 1)]
    np.testing.assert_array_equal(second["top_log_probs"], -np.sort(-table[states])[:, : tiny.TOP_K])
    pool = runner.read_pool("hash_pool")
    assert pool[2:4, 0].tolist() == states
    assert not pool[:2].any() and not pool[4:].any()
