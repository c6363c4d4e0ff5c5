"""A command's memory is bounded by what is available, while it matters."""

import resource
from pathlib import Path

import numpy as np
import pytest

from carryover.cli import memory
from carryover.cli.memory import within_memory

MEBIBYTE = 2**20


def test_more_than_is_available_is_a_memory_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 999999999 kB\nMemAvailable:   262144 kB\n")
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with within_memory():
        np.empty(16 * MEBIBYTE, np.uint8)
        with pytest.raises(MemoryError):
            np.empty(512 * MEBIBYTE, np.uint8)
    np.empty(512 * MEBIBYTE, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize("text", [None, "", "MemAvailable:", "MemAvailable: plenty kB"])
def test_where_nobody_says_how_much_there_is_nothing_is_bounded(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with within_memory():
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
