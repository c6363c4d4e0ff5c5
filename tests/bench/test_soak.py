"""The soak must pass on the real service, and see memory that grows, versions that stay and errors in the log."""

import json
from pathlib import Path

import pytest

from bench import identity, soak, soak_memory
from export.bundle import load_manifest

SMALL = identity.Size(vocabulary=120, embedding=8, hidden=16)
MIB = 2**20


@pytest.mark.slow
def test_a_few_seconds_of_everything_leave_nothing_behind(tmp_path: Path) -> None:
    options = soak.Options(seconds=8.0, warm_up_s=2.0, reload_every_s=2.5, callers=4, lives=6, texts=2)
    outcome = soak.run(options, SMALL, tmp_path)
    assert outcome.faults == [] or all("resident memory" in fault for fault in outcome.faults), outcome.faults
    assert outcome.reloads >= 2
    for what in ("sessions opened", "sessions left", "streams broken", "steps taken", "texts generated"):
        assert outcome.counts[what] > 0, outcome.counts
    assert outcome.counts["sessions told to have expired"] > 0
    assert outcome.counts["strays"] == 0
    assert len(outcome.memory.rss_bytes) >= 8


def series(sizes_mib: list[float], reloading: range = range(0)) -> tuple[list[float], list[int], list[bool]]:
    seconds = range(len(sizes_mib))
    return (
        [float(second) for second in seconds],
        [round(size * MIB) for size in sizes_mib],
        [s in reloading for s in seconds],
    )


@pytest.mark.parametrize(
    ("sizes", "windows", "drift"),
    [
        ([50] * 10 + [100] * 20, [100, 100], 0.0),  # what grows while it warms up does not count
        ([100] * 20 + [103] * 10, [100, 103], 0.03),
        ([100] * 20 + [103] * 10 + [90] * 10, [100, 103, 90], -0.10),  # the farthest, whichever way
        ([100] * 20 + [100, 110] * 5, [100, 105], 0.05),
        ([100] * 20 + [200] * 5, [100], 0.0),  # half a window
        ([100] * 9, [], 0.0),
    ],
)
def test_memory_is_judged_by_whole_windows_after_the_warm_up(
    sizes: list[float], windows: list[float], drift: float
) -> None:
    memory = soak_memory.judge_memory(*series(sizes), warm_up_s=10, window_s=10)
    assert [mean / MIB for mean in memory.windows] == windows
    assert memory.drift == pytest.approx(drift)


def test_what_a_second_version_takes_while_it_is_there_does_not_count() -> None:
    sizes = [100.0] * 20 + [150.0] * 6 + [101.0] * 4
    memory = soak_memory.judge_memory(*series(sizes, range(20, 26)), warm_up_s=10, window_s=10)
    assert [mean / MIB for mean in memory.windows] == [100, 101]
    memory = soak_memory.judge_memory(*series(sizes, range(10, 20)), warm_up_s=10, window_s=10)
    assert len(memory.windows) == 1  # a window in which there was no other time


def test_a_version_that_stays_and_an_error_in_the_log_are_faults() -> None:
    ended = f"INFO service.lifecycle.serving: model {identity.NAME} version 1: ended\n"
    assert soak.check_log(ended, reloads=1) == []
    assert soak.check_log(ended, reloads=2) == ["version 2 was replaced and has not ended"]
    (fault,) = soak.check_log(ended + "10:00 CRITICAL engine: stopped by a bug\n10:01 ERROR x: y\n", reloads=1)
    assert fault.startswith("2 errors") and fault.endswith("stopped by a bug")


def test_a_newer_version_is_the_same_bundle_and_the_one_before_the_last_goes(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    identity.publish(repository, "fp32", SMALL)
    for version in (2, 3):
        soak.publish_next(repository, version)
    assert sorted(folder.name for folder in (repository / identity.NAME).iterdir()) == ["2", "3"]
    second, third = (load_manifest(repository / identity.NAME / name) for name in "23")
    assert (second.version, third.version) == (2, 3)
    assert second.files == third.files


@pytest.mark.slow
def test_the_figures_are_drawn_or_said_not_to_be(tmp_path: Path) -> None:
    memory = soak_memory.judge_memory(*series([100.0] * 30), warm_up_s=10, window_s=10)
    drawn = soak_memory.plot(memory, tmp_path / "soak.png")
    assert drawn == (tmp_path / "soak.png").exists()


def test_faults_are_exit_status_1_and_the_figures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: soak.Options, size: identity.Size, folder: Path) -> soak.Outcome:
        (folder / soak.LOG).write_text("all of it")
        memory = soak_memory.judge_memory(
            *series([100.0] * 70 + [110.0] * 30), options.warm_up_s, options.reload_every_s
        )
        return soak.Outcome({"steps taken": 12}, 3, memory, ["something was lost", "and more"])

    monkeypatch.setattr(soak, "run", run)
    with pytest.raises(SystemExit, match="soak: something was lost; and more"):
        soak.main(["--minutes", "1", "--reload-every", "10", "--out", str(tmp_path / "out")])
    kept = json.loads((tmp_path / "out" / "soak.json").read_text())
    assert kept["reloads"] == 3 and len(kept["memory"]["rss_bytes"]) == 100
    assert (tmp_path / "out" / soak.LOG).read_text() == "all of it"
    assert "+10.00%" in capsys.readouterr().out
