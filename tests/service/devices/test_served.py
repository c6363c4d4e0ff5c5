"""Models that are served on several devices: from the settings to answers, with the CPU in place of each GPU."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from carryover.client.sync import Client
from export.manifest import Manifest
from service.devices import opening
from service.devices.door import Devices
from service.devices.opening import open_others
from service.engine.engine import Engine
from service.errors import ShuttingDown
from service.lifecycle.launching import default_runners, runner_config, runner_configs
from service.models import LiveModel
from service.runtime.errors import ProviderUnavailable, RunnerError
from service.runtime.runner import Runner, RunnerConfig
from service.settings import Settings, SettingsError, load_settings
from tests.service.bundles import publish_language_model
from tests.service.lifecycle.shelf import Shelf, shelf_in
from tests.service.lifecycle.steps import close_session, open_session, step
from tests.service.lifecycle.test_serving import look, serving_of, states
from tests.service.process import best_of, running
from tests.service.rpc.world import wait_until

FOLDER = Path("repository/lm/1")


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with shelf_in(tmp_path / "repository") as made:
        yield made


def devices_of(model: LiveModel) -> Devices:
    assert isinstance(model.bridge.engine, Devices)
    return model.bridge.engine


# ------------------------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", ()), ("1", ("1",)), ("0,2,1", ("0", "2", "1")), (" 0 , 03 ", ("0", "3")), ("cpu,cpu", ("cpu", "cpu"))],
)
def test_devices_are_named_with_commas_between(given: str, expected: tuple[str, ...]) -> None:
    assert load_settings(devices=given).devices == expected


@pytest.mark.parametrize("given", ["0,0", "0,00", "0,cpu", "gpu", "-1", "0.5", "1000", "²", ",", "0,", "cpu,,cpu"])
def test_what_names_no_devices_is_refused(given: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(devices=given)
    assert str(caught.value) == (
        "devices: expected up to 64 different numbers of GPUs between commas, as 0,1, or cpu as many times, as "
        f"cpu,cpu, got {given!r}"
    )


def test_there_are_at_most_64_devices_whatever_they_are() -> None:
    assert load_settings(devices=",".join(map(str, range(64)))).devices == tuple(map(str, range(64)))
    assert load_settings(devices=",".join(["cpu"] * 64)).devices == ("cpu",) * 64
    for names in (list(map(str, range(65))), ["cpu"] * 65, ["cpu"] * 1000):
        with pytest.raises(SettingsError) as caught:
            load_settings(devices=",".join(names))
        assert f", got '{len(names)}: {','.join(names)[:60]}...'" in str(caught.value)


@pytest.mark.parametrize(
    ("provider", "given", "expected"),
    [("cpu", "0,1", "cpu with provider cpu, got 0,1"), ("cuda", "cpu", "numbers of GPUs with provider cuda, got cpu")],
)
def test_devices_are_of_the_provider(provider: str, given: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=f"^devices: expected {expected}$"):
        load_settings(provider=provider, devices=given)


def test_each_device_is_run_as_the_settings_say() -> None:
    settings = Settings(threads=3, num_slots=77)
    config = runner_config(settings)
    assert runner_configs(settings) == [config]
    assert runner_configs(Settings(threads=3, num_slots=77, devices=("2", "0"))) == [
        replace(config, device_id=2),
        replace(config, device_id=0),
    ]
    on_cpu = replace(config, provider="cpu")
    assert runner_configs(Settings(threads=3, num_slots=77, devices=("cpu",) * 3)) == [on_cpu] * 3


def test_what_passes_for_devices_shares_the_cores_and_the_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [default_runners("CPUExecutionProvider", num) for num in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert default_runners("CUDAExecutionProvider", 4) == 1
    settings = Settings(num_slots=42, max_host_state_bytes=1000)
    assert [settings.session_limit(100, num) for num in (1, 2, 3)] == [30 + 10, 2 * (30 + 5), 3 * (30 + 3)]
    assert Settings(num_slots=42, max_host_state_bytes=1000, max_sessions=45).session_limit(100, 3) == 45


# --------------------------------------------------------------------------------------------------- opening, by fakes


class Opened:
    """Stands for runners, and tells which of them are open.

    Args:
        broken: The device that does not work.
        poor: The one that has too little memory, so that the CPU is used in its place.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: int = -1, poor: int = -1) -> None:
        self.open: list[int] = []
        self._broken, self._poor = broken, poor
        monkeypatch.setattr(opening, "open_runner", self._open_runner)

    def runner(self, provider: str, device: int = 0) -> Runner:
        warnings = ("too little memory",) if device == self._poor else ()
        made = SimpleNamespace(provider=provider, manifest="manifest", device=device, warnings=warnings)
        made.close = lambda: self.open.remove(device)
        return cast(Runner, made)

    def _open_runner(self, folder: Path, manifest: Manifest, config: RunnerConfig) -> Runner:
        assert (folder, str(manifest), config.provider) == (FOLDER, "manifest", "auto")
        if config.device_id == self._broken:
            raise ProviderUnavailable("CUDAExecutionProvider", "no such device")
        self.open.append(config.device_id)
        on_cpu = config.device_id == self._poor
        return self.runner("CPUExecutionProvider" if on_cpu else "CUDAExecutionProvider", config.device_id)


def configs(*devices: int) -> list[RunnerConfig]:
    return [RunnerConfig("auto", device_id=device) for device in devices]


def test_a_model_is_opened_on_all_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    others: Any = open_others(FOLDER, opened.runner("CUDAExecutionProvider"), configs(2, 1))
    assert ([other.device for other in others], opened.open) == ([2, 1], [2, 1])


def test_where_there_is_no_gpu_there_is_one_engine(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    opened = Opened(monkeypatch)
    assert open_others(FOLDER, opened.runner("CPUExecutionProvider"), configs(1, 2)) == ()
    assert opened.open == []
    assert caplog.messages == ["repository/lm/1: runs on the CPU, not on 3 devices"]


def test_a_device_that_does_not_work_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch, broken=3)
    with pytest.raises(ProviderUnavailable, match="no such device"):
        open_others(FOLDER, opened.runner("CUDAExecutionProvider"), configs(1, 2, 3, 4))
    assert opened.open == []


def test_a_device_that_would_be_done_without_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch, poor=2)
    expected = "device 2: expected CUDAExecutionProvider to work there too, got: too little memory"
    with pytest.raises(RunnerError, match=f"^{expected}$"):
        open_others(FOLDER, opened.runner("CUDAExecutionProvider"), configs(1, 2, 3))
    assert opened.open == []


# ---------------------------------------------------------------------------------------------------------- serving


async def test_one_device_has_an_engine_and_nothing_before_it(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    for devices in ((), ("cpu",)):
        async with serving_of(shelf, devices=devices) as serving:
            await look(serving, shelf)
            assert isinstance(serving.models.find("acc").bridge.engine, Engine)


async def test_sessions_lie_on_all_devices_and_go_on_when_they_are_moved(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shelf.put("acc", 1)
    shared: dict[str, object] = {"max_sessions": 7, "max_waiting": 10, "max_host_state_bytes": 3000}
    async with serving_of(shelf, devices=("cpu", "cpu", "cpu"), **shared) as serving:
        await look(serving, shelf)
        assert "CPUExecutionProvider on 3 devices" in caplog.text
        model = serving.models.find("acc")
        assert model.limits.max_sessions == 7
        door = devices_of(model)
        limits = [cast(Engine, engine)._limits for engine in door._engines]
        assert [(each.max_waiting, each.max_host_bytes) for each in limits] == [(4, 1000)] * 3
        sessions = [await open_session(model) for _ in range(6)]
        for session in sessions:
            assert await step(model, session, session) == (1000 + session, 1)
        assert [engine.stats().sessions for engine in door._engines] == [2, 2, 2]
        for session in sessions:
            assert door.move(session, 0) or door._pins._pins[session].device == 0
            assert await step(model, session, 7) == (1007 + session, 2)
        assert door.num_moved == 4
        await wait_until(lambda: [engine.stats().sessions for engine in door._engines] == [6, 0, 0])
        for session in sessions:
            assert await close_session(model, session) == 2
    with pytest.raises(ShuttingDown):
        await open_session(model)


async def test_sessions_of_all_devices_are_carried_to_a_newer_version(shelf: Shelf) -> None:
    shelf.put("acc", 1, carry_sessions=True)
    async with serving_of(shelf, devices=("cpu", "cpu")) as serving:
        await look(serving, shelf)
        old = serving.models.find("acc")
        sessions = [await open_session(old) for _ in range(5)]

        class Sink:
            """Watches a session: only those are carried that somebody watches."""

            def ended(self, event: object) -> None:
                raise AssertionError(event)

        for session in sessions:
            assert await step(old, session, session) == (1000 + session, 1)
            old.bridge.watch_session(session, Sink())
        shelf.put("acc", 2, carry_sessions=True)
        await look(serving, shelf)
        await wait_until(lambda: states(serving)["acc", 1] == "UNAVAILABLE")
        new = serving.models.find("acc")
        for session in sessions:
            assert await step(new, session, 1) == (1001 + session, 2)
        assert sorted(engine.stats().sessions for engine in devices_of(new)._engines) == [2, 3]


@pytest.mark.slow
def test_a_server_on_several_devices_answers_as_one_on_one(tmp_path: Path) -> None:
    publish_language_model(tmp_path, "lm", 1)
    ids = [4, 5, 6, 5]
    answers = []
    for devices in ("", "cpu,cpu"):
        with running(tmp_path, "", devices=devices) as server:
            with Client(server.address) as client:
                texts = [[one.token for one in client.generate("lm", max_tokens=6, seed=5)] for _ in range(4)]
                sessions = [client.session("lm") for _ in range(4)]
                with_each = []
                for session in sessions:
                    with session:
                        with_each.append([best_of(session.step(token_ids=[token], num_top=3)) for token in ids])
            status, log = server.stop()
        assert status == 0, log
        assert ("CPUExecutionProvider on 2 devices" in log) == bool(devices)
        answers.append((texts, with_each))
    assert str(answers[0]) == str(answers[1])
