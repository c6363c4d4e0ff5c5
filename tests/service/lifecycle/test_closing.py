"""Closing models, which on a GPU waits while another model is captured there: the event loop does not."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.errors import ShuttingDown
from service.lifecycle.launching import Running
from service.lifecycle.opening import Opener
from service.repository import RefusedBundle, ServedModel, list_models, open_bundle
from service.runtime.errors import RunnerError
from service.runtime.opening import open_runner
from service.runtime.runner import Runner, RunnerConfig
from tests.service.lifecycle.shelf import Shelf
from tests.service.lifecycle.test_serving import look, served, serving_of
from tests.service.rpc.world import wait_until

CONFIG = RunnerConfig("cpu", 1, 16, 64)
NO_TURN = "the GPU: expected it to be free within 120 s, got no turn"


class Capture:
    """Another model's, which keeps runners from being closed until the test, on the loop, ends it.

    Attributes:
        held_up: Closings that have begun.
        through: Of those that have come to their end: whether the capture had ended; it is not waited for for ever.
    """

    def __init__(self) -> None:
        self.held_up = 0
        self.through: list[bool] = []
        self._ended = threading.Event()

    def close(self, runner: Runner) -> None:
        self.held_up += 1
        self.through.append(self._ended.wait(10))

    async def is_met(self) -> None:
        """Wait, as the loop can only if nobody holds it up, for a closing to begin, and let all come to their end."""
        await wait_until(lambda: self.held_up)
        assert not self.through
        self._ended.set()
        await wait_until(lambda: len(self.through) == self.held_up)
        assert all(self.through)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Iterator[Capture]:
    capture = Capture()
    monkeypatch.setattr(Runner, "close", lambda runner: capture.close(runner))
    yield capture
    capture._ended.set()


async def test_a_version_that_is_replaced_is_closed_while_the_others_answer(shelf: Shelf, capture: Capture) -> None:
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        await look(serving, shelf)
        shelf.put("acc", 2)
        await look(serving, shelf)
        await capture.is_met()
        assert served(serving) == [("acc", 2)]


async def test_so_is_one_whose_engine_cannot_be_started(
    shelf: Shelf, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("service.lifecycle.serving.launch", launch)
    shelf.put("acc", 1)
    async with serving_of(shelf) as serving:
        looking = asyncio.create_task(look(serving, shelf))
        await capture.is_met()
        assert [bundle.reason for bundle in (await looking).refused] == ["can't start new thread"]


async def test_so_is_one_that_is_opened_when_nobody_waits_for_it_any_more(shelf: Shelf, capture: Capture) -> None:
    shelf.put("acc", 1)
    opener, go_on = Opener(CONFIG), shelf.hold("acc", 1)
    opening = asyncio.create_task(opener.open(list_models(shelf.folder)["acc"][0]))
    await wait_until(shelf.is_held)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    go_on()
    await capture.is_met()


async def test_so_is_one_that_is_opened_when_the_service_stops(shelf: Shelf, capture: Capture) -> None:
    shelf.put("acc", 1)
    opener, measuring, go_on = Opener(CONFIG), threading.Event(), threading.Event()

    def measure(*_: Any) -> Any:
        measuring.set()
        assert go_on.wait(10)
        raise RunnerError("ended")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.repository.load_or_measure", measure)
        opening = asyncio.create_task(opener.open(list_models(shelf.folder)["acc"][0]))
        await wait_until(measuring.is_set)
        opener.close()
        await capture.is_met()
        go_on.set()
        with pytest.raises(ShuttingDown):
            await opening


class Stubborn:
    """Runners of which the first to be closed cannot be."""

    def __init__(self) -> None:
        self.closed: list[Runner] = []

    def close(self, runner: Runner) -> None:
        self.closed.append(runner)
        if len(self.closed) == 1:
            raise RunnerError(NO_TURN)


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> Stubborn:
    stubborn = Stubborn()
    monkeypatch.setattr(Runner, "close", lambda runner: stubborn.close(runner))
    return stubborn


def opened(shelf: Shelf) -> ServedModel:
    shelf.put("acc", 1)
    model = open_bundle(list_models(shelf.folder)["acc"][0], CONFIG, others=[CONFIG, CONFIG])
    assert isinstance(model, ServedModel) and len(set(model.runners)) == 3
    return model


async def test_a_runner_that_cannot_be_closed_keeps_no_other_one_open(
    shelf: Shelf, stubborn: Stubborn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, given_back = opened(shelf), list[bool]()
    monkeypatch.setattr("service.lifecycle.launching.give_back", lambda: given_back.append(True))
    engine: Any = SimpleNamespace(close=lambda: None)
    await Running(SimpleNamespace(manifest=model.manifest), engine, model.runners, model.bundle).close()  # type: ignore[arg-type]
    assert set(stubborn.closed) == set(model.runners)
    assert given_back == [True]
    assert caplog.messages == [f"model acc version 1: keeps what it has on a device: {NO_TURN}"]


def test_nor_where_no_engine_was_started(shelf: Shelf, stubborn: Stubborn) -> None:
    model = opened(shelf)
    model.close()
    assert stubborn.closed == list(model.runners)


def test_nor_hides_why_a_further_device_does_not_work(
    shelf: Shelf, stubborn: Stubborn, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Runner] = []

    def open_two(folder: Path, *how: Any) -> Runner:
        if len(made) == 2:
            raise RunnerError("device 3: expected a GPU, got none")
        made.append(open_runner(folder, *how))
        return made[-1]

    monkeypatch.setattr("service.devices.opening.open_runner", open_two)
    shelf.put("acc", 1)
    refused = open_bundle(list_models(shelf.folder)["acc"][0], CONFIG, others=[CONFIG] * 3)
    assert isinstance(refused, RefusedBundle)
    assert refused.reason == "device 3: expected a GPU, got none"
    assert stubborn.closed[:2] == made and len(stubborn.closed) == 3
