"""What is served is opened again only if its bundle is another one."""

import os
from collections.abc import Sequence

import pytest

from service.measuring.company import bound
from service.runtime.runner import Runner
from tests.service.lifecycle.shelf import Shelf
from tests.service.lifecycle.test_serving import look, serving_of


async def test_a_bundle_whose_rows_are_run_alone_here_is_the_same_when_it_is_touched(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_alone(runner: Runner, sizes: Sequence[int], *_: object) -> tuple[()]:
        bound(runner, 1, "a test says so")
        return ()

    monkeypatch.setattr("service.repository.probe_company", run_alone)
    folder = shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        model = serving.models.find("acc")
        assert model.manifest.imported is not None and model.manifest.imported.max_rows == 1
        assert model.max_batch_rows == 1 and model.batch_invariant
        assert model.warnings == ("runs at most 1 row at a time, as a test says so",)
        os.utime(folder / "manifest.json", ns=(1, 1))
        await look(serving, shelf, retry=False)
        assert serving.models.find("acc") is model
        assert shelf.opened == [("acc", 1)]
