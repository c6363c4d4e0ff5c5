"""A version is served when its engine has got ready, and what was served before answers until then."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from service.lifecycle.launching import Running
from service.lifecycle.warming import WarmUp
from service.runtime.errors import DeviceFailure
from service.runtime.runner import Runner
from tests.service.lifecycle.shelf import PATIENCE_S, Shelf
from tests.service.lifecycle.steps import open_session, step
from tests.service.lifecycle.test_serving import look, served, serving_of, states
from tests.service.rpc.world import wait_until


async def test_the_old_version_answers_until_the_new_one_is_warm(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait(runner: Runner, stop: Callable[[], bool]) -> None:
        inside.set()
        assert go_on.wait(PATIENCE_S)

    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        old = serving.models.find("acc")
        monkeypatch.setattr(Runner, "warm_up", wait)
        shelf.put("acc", 2)
        loading = asyncio.create_task(look(serving, shelf))
        try:
            await wait_until(inside.is_set)
            await wait_until(lambda: states(serving) == {("acc", 1): "READY", ("acc", 2): "LOADING"})
            for _ in range(20):  # turns of the loop, in which it could go on
                await step(old, await open_session(old), 1)
            assert not loading.done() and serving.models.find("acc") is old
        finally:
            go_on.set()
        await loading
        assert serving.models.find("acc") is not old


async def test_an_engine_that_ends_before_it_is_served_is_remembered(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(runner: Runner, stop: Callable[[], bool]) -> None:
        raise DeviceFailure("cudaMemcpyAsync", 0, 700, "an illegal memory access was encountered")

    async def wait(running: Running) -> None:
        await go_on.wait()

    go_on = asyncio.Event()
    monkeypatch.setattr(Runner, "warm_up", lose)
    monkeypatch.setattr(Running, "warm", wait)
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        loading = asyncio.create_task(look(serving, shelf))
        try:
            await wait_until(lambda: serving.failed)
            assert served(serving) == []
        finally:
            go_on.set()
            await asyncio.gather(loading, return_exceptions=True)


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory")])
def test_a_warm_up_is_over_however_it_went(error: Exception | None) -> None:
    def work(stop: Callable[[], bool]) -> None:
        assert not warm_up.wait(0)
        if error is not None:
            raise error

    warm_up = WarmUp(work)
    if error is None:
        warm_up.run(lambda: False)
    else:
        with pytest.raises(RuntimeError):
            warm_up.run(lambda: False)
    assert warm_up.wait(0)
