"""Reading the repository off the event loop."""

import asyncio
import threading
from pathlib import Path

import pytest

from service.errors import ShuttingDown
from service.lifecycle.opening import Opener, off_loop
from service.repository import RefusedBundle, ServedModel, list_models
from service.runtime.runner import Runner, RunnerConfig
from tests.service.lifecycle.shelf import shelf_in
from tests.service.rpc.world import wait_until

CONFIG = RunnerConfig("cpu", 1, 16, 64)


async def test_what_is_called_is_on_another_thread_and_its_error_comes_back() -> None:
    assert await off_loop(threading.get_ident) != threading.get_ident()

    def fail() -> None:
        raise ValueError("of this kind")

    with pytest.raises(ValueError, match="of this kind"):
        await off_loop(fail)


async def test_what_nobody_waits_for_any_more_is_dropped() -> None:
    go_on, dropped = threading.Event(), list[tuple[str, int]]()

    def call() -> str:
        assert go_on.wait(10)
        return "late"

    waiting = asyncio.create_task(off_loop(call, lambda what: dropped.append((what, threading.get_ident()))))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await wait_until(lambda: dropped)
    [(what, thread)] = dropped
    assert what == "late" and thread != threading.get_ident()  # which may take long, too


async def test_one_bundle_is_opened_at_a_time_and_none_once_it_is_closed(tmp_path: Path) -> None:
    with shelf_in(tmp_path / "repository") as shelf:
        for name in ("a", "b"):
            shelf.put(name, 1)
        paths = {name: paths[0] for name, paths in list_models(shelf.folder).items()}
        opener = Opener(CONFIG)
        go_on = shelf.hold("a", 1)
        first = asyncio.create_task(opener.open(paths["a"]))
        await wait_until(shelf.is_held)
        second = asyncio.create_task(opener.open(paths["b"]))
        await asyncio.sleep(0)
        assert shelf.opened == [("a", 1)]
        go_on()
        for opening in (first, second):
            opened = await opening
            assert isinstance(opened, ServedModel)
            opened.runner.close()
        opener.close()
        with pytest.raises(ShuttingDown):
            await opener.open(paths["a"])
        assert len(shelf.opened) == 2


async def test_closing_ends_the_measuring_of_what_is_being_opened(tmp_path: Path) -> None:
    # The patch of the test within that of the shelf, so that each takes back what it found.
    with shelf_in(tmp_path / "repository") as shelf, pytest.MonkeyPatch.context() as monkeypatch:
        shelf.put("a", 1)
        measuring, closed, outcome = threading.Event(), threading.Event(), list[object]()

        def measure(folder: Path, runner: object, threads: int) -> None:
            measuring.set()
            assert closed.wait(10)
            try:
                runner.run("step", {}, ())  # type: ignore[attr-defined]
            except Exception as error:
                outcome.append(error)
                raise

        close = Runner.close

        def close_and_tell(runner: Runner) -> None:
            close(runner)
            closed.set()

        monkeypatch.setattr("service.repository.load_or_measure", measure)
        monkeypatch.setattr(Runner, "close", close_and_tell)
        opener = Opener(CONFIG)
        opening = asyncio.create_task(opener.open(list_models(shelf.folder)["a"][0]))
        await wait_until(measuring.is_set)
        opener.close()
        with pytest.raises(ShuttingDown):
            await opening
        assert [type(error) for error in outcome] == [KeyError]


async def test_a_broken_bundle_is_told_of(tmp_path: Path) -> None:
    with shelf_in(tmp_path / "repository") as shelf:
        shelf.put_broken("a", 1)
        refused = await Opener(CONFIG).open(list_models(shelf.folder)["a"][0])
        assert isinstance(refused, RefusedBundle)
