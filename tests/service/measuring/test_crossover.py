"""Crossovers of runners whose costs are given, and of a real one."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.bundle import load_manifest
from export.manifest import GraphKind, GraphSpec, ImportedSpec, Manifest, StateSpec, TensorSpec
from service.measuring import crossover
from service.measuring.crossover import (
    Crossover,
    Rate,
    graph_of,
    host_of,
    keep,
    load,
    measure,
    measure_rate,
    sizes_of,
    slots_for,
)
from service.runtime.opening import open_runner
from service.runtime.providers import CPU, CUDA
from service.runtime.runner import RunnerConfig
from tests.service.bundles import publish_transducer

STATE = StateSpec(name="h", dtype="float32", shape=(1,), pool_input="h_pool", pool_output="h_pool_out")


def spec(kind: GraphKind, *inputs: str) -> GraphSpec:
    given = [TensorSpec(name=name, dtype="int64", shape=("B",)) for name in inputs]
    output = TensorSpec(name="top_log_probs", dtype="float32", shape=("B", 7))
    return GraphSpec(file=f"{kind}.onnx", inputs=tuple(given), outputs=(output,))


def manifest_of(*kinds: GraphKind, imported: ImportedSpec | None = None) -> Manifest:
    graphs = {kind: spec(kind, "tokens", "read_slots", "write_slots") for kind in kinds}
    return Manifest(
        name="m", version=1, task="language_model" if imported is None else "tensors", precision="fp32",
        graphs=graphs, states=(STATE,), tokenizers={}, created="", files={}, imported=imported,
    )  # fmt: skip


class PricedRunner:
    """Runs nothing but a clock, by what a run of so many rows costs; notes what it was asked."""

    def __init__(self, cost: Callable[[int], float], provider: str = CPU) -> None:
        self.manifest = manifest_of("step", "sequence")
        self.provider = provider
        self.now = 0.0
        self.runs: list[tuple[int, GraphKind, npt.NDArray[Any], npt.NDArray[Any]]] = []
        self._cost = cost
        self._lock = threading.Lock()

    def run(
        self, kind: GraphKind, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], lane: int = 0
    ) -> Mapping[str, npt.NDArray[Any]]:
        with self._lock:
            self.runs.append((lane, kind, inputs["read_slots"], inputs["write_slots"]))
            self.now += self._cost(len(inputs["tokens"]))
        return {}


def crossover_of(cpu: Mapping[int, float], cuda: Mapping[int, float], host: str = "here") -> Crossover:
    def rates(series: Mapping[int, float]) -> dict[int, Rate]:
        return {rows: Rate(runs_per_s=rate / rows, rows_per_s=rate) for rows, rate in series.items()}

    return Crossover(host=host, measured_at="", graph="step", runners=2, cpu=rates(cpu), cuda=rates(cuda))


@pytest.mark.parametrize("rows", [1, 16, 300])
def test_a_rate_is_that_of_the_clock(rows: int) -> None:
    runner = PricedRunner(lambda rows: 0.001 + 0.0001 * rows)
    rate = measure_rate(runner, rows, 1.0, clock=lambda: runner.now)
    each = 0.001 + 0.0001 * rows
    assert rate.runs_per_s == pytest.approx(1 / each)
    assert rate.rows_per_s == pytest.approx(rows / each)
    assert runner.now == pytest.approx(1.0, abs=5 * each)  # no longer than asked for, and warming up


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_one_run_is_timed_however_long_it_takes(seconds: float) -> None:
    runner = PricedRunner(lambda rows: 100.0)
    assert measure_rate(runner, 4, seconds, clock=lambda: runner.now) == Rate(runs_per_s=0.01, rows_per_s=0.04)


def test_runs_that_warm_up_are_not_timed() -> None:
    costs = iter([50.0, 50.0, 50.0])
    runner = PricedRunner(lambda rows: next(costs, 0.25))
    assert measure_rate(runner, 1, 1.0, clock=lambda: runner.now).runs_per_s == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("rows", "runners", "shares"), [(10, 4, [3, 3, 2, 2]), (3, 4, [1, 1, 1]), (8, 2, [4, 4]), (5, 1, [5])]
)
def test_runners_share_the_rows_and_none_meets_another(rows: int, runners: int, shares: list[int]) -> None:
    runner = PricedRunner(lambda rows: 0.0)
    measure_rate(runner, rows, 0.001, runners)
    lanes = {lane: (read, write) for lane, _, read, write in runner.runs}
    assert [len(lanes[lane][0]) for lane in sorted(lanes)] == shares
    read, write = (np.concatenate([lanes[lane][i] for lane in sorted(lanes)]) for i in (0, 1))
    taken = np.concatenate([read, write])
    assert len(set(taken)) == 2 * rows
    assert taken.min() == 2  # 0 and 1 are reserved
    assert taken.max() < slots_for([rows])


def test_rates_of_runners_side_by_side_add_up() -> None:
    """Each lane sees the same clock, which all of them move: 4 runs of 3 and 2 of 2 rows a second are as many."""

    class Lanes(PricedRunner):
        def run(self, kind: Any, inputs: Any, outputs: Any, lane: int = 0) -> Mapping[str, npt.NDArray[Any]]:
            clocks[threading.get_ident()] = clocks.get(threading.get_ident(), 0.0) + (0.25, 0.5)[lane]
            return {}

    clocks: dict[int, float] = {}
    rate = measure_rate(
        Lanes(lambda rows: 0.0), 5, 1.0, runners=2, clock=lambda: clocks.get(threading.get_ident(), 0.0)
    )
    assert rate == Rate(runs_per_s=4 + 2, rows_per_s=4 * 3 + 2 * 2)


def test_a_lane_that_fails_ends_the_measurement_with_its_error() -> None:
    class Failing(PricedRunner):
        def run(self, kind: Any, inputs: Any, outputs: Any, lane: int = 0) -> Mapping[str, npt.NDArray[Any]]:
            if lane == 1:
                raise ValueError("no such row")
            return {}

    with pytest.raises(ValueError, match="no such row"):
        measure_rate(Failing(lambda rows: 0.0), 4, 0.001, runners=3)


def test_both_are_measured_at_all_sizes_and_each_is_told_of() -> None:
    on_cpu = PricedRunner(lambda rows: 0.0001 * rows)  # 10,000 rows/s
    on_cuda = PricedRunner(lambda rows: 0.001 + 0.00001 * rows, CUDA)
    told: list[tuple[int, Rate, Rate | None]] = []
    found = measure(
        on_cpu, on_cuda, [64, 1, 4, 64], 0.1, 1, "here",
        lambda *line: told.append(line), lambda: on_cpu.now + on_cuda.now,
    )  # fmt: skip
    assert [rows for rows, _, _ in told] == [1, 4, 64] == list(found.cpu) == list(found.cuda)
    assert told == [(rows, found.cpu[rows], found.cuda[rows]) for rows in found.cpu]
    assert found.cpu[64].rows_per_s == pytest.approx(10_000)
    assert found.cuda[64].rows_per_s == pytest.approx(64 / 0.00164)
    assert {kind for _, kind, _, _ in on_cpu.runs} == {"step"}
    assert found.row == 64


def test_without_a_gpu_the_cpu_is_measured_alone() -> None:
    runner = PricedRunner(lambda rows: 0.001)
    found = measure(runner, None, [1, 2], 0.01, 1, "here", clock=lambda: runner.now)
    assert sorted(found.cpu) == [1, 2]
    assert (found.cuda, found.row, found.best()) == ({}, None, None)


@pytest.mark.parametrize(
    ("cuda", "row"),
    [
        ({1: 5, 4: 30, 16: 100, 64: 400}, 16),
        ({1: 20, 4: 40, 16: 100, 64: 400}, 1),
        ({1: 5, 4: 30, 16: 70, 64: 70}, None),
        ({1: 20, 4: 30, 16: 90, 64: 400}, 16),  # quicker at 1 too, but not from there on
        ({1: 20, 4: 40, 16: 100, 64: 70}, None),
        ({1: 5, 4: 30, 16: 80, 64: 90}, 16),  # as quick is quick enough
        ({64: 91}, 64),
    ],
)
def test_the_crossover_is_where_the_gpu_begins_to_stay_quicker(cuda: dict[int, float], row: int | None) -> None:
    assert crossover_of({1: 10, 4: 35, 16: 80, 64: 90}, cuda).row == row


@pytest.mark.parametrize(
    ("max_rows", "best"),
    [(None, (90, 400)), (64, (90, 400)), (63, (80, 70)), (16, (80, 70)), (4, (35, 30)), (1, (10, 5)), (0, None)],
)
def test_the_best_counts_of_what_can_be_ready(max_rows: int | None, best: tuple[float, float] | None) -> None:
    measured = crossover_of({1: 10, 4: 35, 16: 80, 64: 90}, {1: 5, 4: 30, 16: 70, 64: 400})
    found = measured.best(max_rows)
    assert found == best
    if found is not None:
        assert found.on_cpu == (found.cpu >= found.cuda)


@pytest.mark.parametrize(
    ("sizes", "max_rows", "decides"),
    [
        ((1,), 16, True),
        ((1,), 17, False),
        ((1, 64), 1024, True),
        ((1, 64), 1025, False),
        ((1, 4096), 64, False),  # 64 can be ready, and of what is as small one row was measured
        ((256,), 65536, True),  # no more than 4,096 rows are usually measured
    ],
)
def test_a_few_rows_decide_nothing_for_many(sizes: Sequence[int], max_rows: int, decides: bool) -> None:
    rates = dict.fromkeys(sizes, 1.0)
    assert (crossover_of(rates, rates).best(max_rows) is not None) == decides


def test_what_is_measured_at_one_size_leaves_the_others_as_they_were() -> None:
    earlier = crossover_of({1: 10, 64: 90}, {1: 5, 64: 400})
    anew = crossover_of({1: 11, 4: 30}, {1: 6, 4: 20})
    assert anew.on_top_of(earlier) == crossover_of({1: 11, 4: 30, 64: 90}, {1: 6, 4: 20, 64: 400})
    assert anew.on_top_of(None) == anew
    for change in ({"runners": 7}, {"graph": "sequence"}):
        assert anew.on_top_of(earlier.model_copy(update=change)) == anew, "measured in another way"


def test_what_is_quickest_on_the_cpu_in_small_batches_counts_in_large_ones_too() -> None:
    """Whoever has 64 rows ready may run them in fours."""
    found = crossover_of({4: 100, 64: 50}, {4: 10, 64: 80}).best()
    assert found is not None and found.on_cpu


def test_where_both_do_as_much_the_cpu_is_enough() -> None:
    found = crossover_of({4: 100}, {4: 100}).best()
    assert found is not None and found.on_cpu


def test_a_model_is_measured_by_its_steps_where_it_has_them() -> None:
    assert graph_of(manifest_of("sequence", "chunk", "step")) == "step"
    assert graph_of(manifest_of("sequence")) == "sequence"
    assert graph_of(manifest_of("run")) == "run"


def test_no_more_rows_are_measured_than_the_model_takes() -> None:
    bounded = manifest_of("step", imported=ImportedSpec(original="o.onnx", max_rows=4))
    assert sizes_of(bounded, [64, 4, 1, 4]) == (1, 4)
    assert sizes_of(manifest_of("step"), [64, 4, 1, 4]) == (1, 4, 64)
    assert sizes_of(bounded, [5]) == ()


@dataclass(frozen=True)
class How:
    """How models are run."""

    threads: int = 1
    tf32: bool = False
    cuda_graphs: bool = True
    device_id: int = 0


def test_what_is_kept_is_read_again_for_the_same_machine_settings_and_files_alone(tmp_path: Path) -> None:
    manifest = manifest_of("step")
    measured = crossover_of({1: 10}, {1: 20}, host_of(How(), "H100"))
    path = keep(tmp_path, manifest, measured)
    assert path.parent == tmp_path / "host-profiles"
    assert load(tmp_path, manifest, host_of(How(), "H100")) == measured
    for other in (How(threads=2), How(tf32=True), How(cuda_graphs=False)):
        assert load(tmp_path, manifest, host_of(other, "H100")) is None
    assert load(tmp_path, manifest, host_of(How(), "L4")) is None
    entry = {"sha256": "0" * 64, "num_bytes": 1}
    others = Manifest.model_validate({**manifest.model_dump(), "files": {"step.onnx": entry}})
    assert load(tmp_path, others, host_of(How(), "H100")) is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema_version": 2}', b"\xff"])
def test_what_is_no_crossover_is_done_without(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    manifest = manifest_of("step")
    path = keep(tmp_path, manifest, crossover_of({1: 10}, {1: 20}, "here"))
    path.write_bytes(content)
    assert load(tmp_path, manifest, "here") is None
    assert "expected a crossover, got" in caplog.text


def test_a_bundle_that_has_one_stays_a_bundle_and_a_real_runner_is_measured(tmp_path: Path) -> None:
    folder = publish_transducer(tmp_path)
    manifest = load_manifest(folder)
    sizes = sizes_of(manifest, [1, 3])
    runner = open_runner(folder, manifest, RunnerConfig("cpu", num_slots=slots_for(sizes), num_memory_rows=64))
    found = measure(runner, runner, sizes, 0.002, 2, "here")
    assert found.graph == "step"
    assert all(rate.rows_per_s > 0 for rate in (*found.cpu.values(), *found.cuda.values()))
    # What is read stays what it was: the initial state.
    assert all(not states[2::2].any() for states in runner.read_rows(range(slots_for(sizes))).values())
    keep(folder, manifest, found)
    assert load_manifest(folder) == manifest
    assert crossover.load(folder, manifest, "here") == found
