"""How many rows of an imported model share a run, where a machine shows that fewer should."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from export.manifest import GraphKind, Manifest
from service.measuring.company import bounded, most_rows, probe_company
from service.measuring.invariance import batch_sizes, probe_invariance
from service.runtime.opening import open_runner
from service.runtime.runner import Runner, RunnerConfig
from tests.service import tiny_models as tiny
from tests.service.tensor_models import write_accumulator, write_identity, write_meeting, write_narrow

Arrays = dict[str, npt.NDArray[Any]]
SIZES = batch_sizes(16)


def open_tensors(folder: Path, manifest: Manifest) -> Runner:
    return open_runner(folder, manifest, RunnerConfig("cpu", 1, 32, 64))


def rows_of(runner: Runner) -> int | None:
    assert runner.manifest.imported is not None
    return runner.manifest.imported.max_rows


def changed(runner: Runner, change: Callable[[int, Arrays], Arrays]) -> Runner:
    """The runner, with what its runs give changed by the number of their rows."""
    run = runner.run

    def run_and_change(
        kind: GraphKind, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], lane: int = 0
    ) -> Arrays:
        return change(len(inputs["write_slots"]), run(kind, inputs, outputs, lane))

    runner.run = run_and_change  # type: ignore[method-assign]
    return runner


@pytest.mark.parametrize("most", [4, 5, 8, 100])
def test_the_most_rows_that_run_are_found(tmp_path: Path, most: int) -> None:
    assert most_rows(open_tensors(tmp_path, write_narrow(tmp_path, most))) == most


def test_no_more_than_some_thousand_rows_are_tried(tmp_path: Path) -> None:
    assert most_rows(open_tensors(tmp_path, write_identity(tmp_path, "float32"))) == 4096
    assert most_rows(open_tensors(tmp_path, write_accumulator(tmp_path))) == 4096


def test_what_does_not_run_on_one_row_runs_on_none(tmp_path: Path) -> None:
    runner = open_tensors(tmp_path, write_accumulator(tmp_path))
    runner.close()
    with pytest.raises(Exception, match=r"pool|step"):
        most_rows(runner)


def test_a_bound_only_ever_gets_lower(tmp_path: Path) -> None:
    manifest = write_accumulator(tmp_path)
    assert bounded(bounded(manifest, 4), 9) == bounded(manifest, 4) == bounded(bounded(manifest, 9), 4)
    assert bounded(manifest, 4).graphs == manifest.graphs


def test_rows_that_meet_are_run_alone(tmp_path: Path) -> None:
    runner = open_tensors(tmp_path, write_meeting(tmp_path))
    assert probe_company(runner, SIZES, {}) == ()
    assert rows_of(runner) == 1
    [warning] = runner.warnings
    assert warning.startswith(
        "runs at most 1 row at a time, as rows influence each other (step: state:total differs in"
    )


def test_what_only_shows_in_a_state_that_is_new_is_seen(tmp_path: Path) -> None:
    """Beside states of about 1 it would be lost."""
    runner = open_tensors(tmp_path, write_meeting(tmp_path, 1e-12))
    assert probe_company(runner, SIZES, {}) == () and rows_of(runner) == 1


def test_rows_that_do_not_meet_are_left_in_company(tmp_path: Path) -> None:
    runner = open_tensors(tmp_path, write_accumulator(tmp_path))
    assert probe_company(runner, SIZES, {}) == ()
    assert rows_of(runner) is None and runner.warnings == ()


def test_rounding_is_told_and_nothing_else(tmp_path: Path) -> None:
    def round_otherwise(num_rows: int, got: Arrays) -> Arrays:
        return got | {"total": np.nextafter(got["total"], np.float32(9))} if num_rows > 3 and "total" in got else got

    runner = changed(open_tensors(tmp_path, write_accumulator(tmp_path)), round_otherwise)
    [variance] = probe_company(runner, SIZES, {})
    assert str(variance).startswith("step: total differs in batches of 4, 5, 8, 13, 16 by up to")
    assert rows_of(runner) is None and runner.warnings == ()


@pytest.mark.parametrize(("tf32", "most"), [(True, None), (False, 1)])
def test_roundings_to_tf32_make_nobody_run_alone(tmp_path: Path, tf32: bool, most: int | None) -> None:
    def round_factors(num_rows: int, got: Arrays) -> Arrays:
        return got | {"total": got["total"] * np.float32(1 + 4e-3)} if num_rows > 3 and "total" in got else got

    runner = changed(open_tensors(tmp_path, write_accumulator(tmp_path)), round_factors)
    probe_company(runner, SIZES, {}, tf32)
    assert rows_of(runner) == most


def test_rows_that_meet_are_run_alone_whatever_is_rounded(tmp_path: Path) -> None:
    runner = open_tensors(tmp_path, write_meeting(tmp_path))
    assert probe_company(runner, SIZES, {}, tf32=True) == () and rows_of(runner) == 1


def test_what_is_far_in_one_batch_is_far_though_it_is_near_in_others(tmp_path: Path) -> None:
    def differ(num_rows: int, got: Arrays) -> Arrays:
        more = {2: np.float32(0.5)}.get(num_rows, np.float32(1e-7 if num_rows > 2 else 0))
        return got | {"total": got["total"] + more * np.abs(got["total"])} if "total" in got else got

    runner = changed(open_tensors(tmp_path, write_accumulator(tmp_path)), differ)
    [variance] = probe_invariance(runner, SIZES, budget_s=0)
    assert variance.is_far and variance.sizes[0] == 2 and variance.most > 0.1
    assert probe_company(runner, SIZES, {}) == () and rows_of(runner) == 1


def test_where_a_batch_fails_rows_are_run_alone(tmp_path: Path) -> None:
    def fail(num_rows: int, got: Arrays) -> Arrays:
        if num_rows == 5:
            raise RuntimeError("expected an even number\nof rows")
        return got

    runner = changed(open_tensors(tmp_path, write_accumulator(tmp_path)), fail)
    assert probe_company(runner, SIZES, {}) == ()
    assert rows_of(runner) == 1
    assert runner.warnings == ("runs at most 1 row at a time, as some batches of it fail (expected an even number)",)


def test_what_fails_alone_too_is_an_error(tmp_path: Path) -> None:
    runner = open_tensors(tmp_path, write_accumulator(tmp_path))
    runner.close()
    with pytest.raises(Exception, match=r"pool|step"):
        probe_company(runner, SIZES, {})
    assert rows_of(runner) is None


def test_a_model_that_differs_from_itself_is_not_helped_by_being_alone(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def draw(num_rows: int, got: Arrays) -> Arrays:
        return got | {"total": generator.normal(size=(num_rows, 1)).astype(np.float32)} if "total" in got else got

    runner = changed(open_tensors(tmp_path, write_accumulator(tmp_path)), draw)
    [variance] = probe_company(runner, SIZES, {})
    assert variance.sizes == (1,) and rows_of(runner) == 1


def test_no_more_rows_than_the_import_found_are_tried(tmp_path: Path) -> None:
    manifest = bounded(write_narrow(tmp_path, 6), 6)
    runner = open_tensors(tmp_path, manifest)
    assert probe_company(runner, SIZES, {}) == ()
    assert runner.manifest is manifest and runner.warnings == ()


def test_models_of_ours_are_not_run_alone(tmp_path: Path) -> None:
    manifest = tiny.write_language_model(tmp_path, tiny.make_table())

    def differ(num_rows: int, got: Arrays) -> Arrays:
        return {name: array + (num_rows > 2) for name, array in got.items()}

    runner = changed(open_tensors(tmp_path, manifest), differ)
    assert any(variance.is_far for variance in probe_company(runner, SIZES, {}))
    assert runner.manifest is manifest and runner.warnings == ()
